"""docker/install.py: which build of torch a machine or an image gets, and what installs it."""

import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
Main = Callable[[list[str]], Any]


class Commands:
    """What would have been run, without the interpreter; commands that match `failing` fail."""

    def __init__(self) -> None:
        self.run: list[str] = []
        self.failing = "^$"
        self.index_of_pip = ""
        self.index_of_uv: str | None = None

    def __call__(
        self, command: list[str], *, check: bool = False, env: dict[str, str] | None = None, **_: Any
    ) -> subprocess.CompletedProcess[str]:
        words = " ".join(command[2:])
        if words.startswith("pip config get"):
            return subprocess.CompletedProcess(command, not self.index_of_pip, f"{self.index_of_pip}\n")
        self.run.append(words)
        if words.startswith("uv "):
            self.index_of_uv = (env or {}).get("UV_DEFAULT_INDEX")
        status = 5 if re.search(self.failing, words) else 0
        if check and status:
            raise subprocess.CalledProcessError(status, command)
        return subprocess.CompletedProcess(command, status)

    def has(self, pattern: str) -> bool:
        return any(re.search(pattern, command) for command in self.run)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(subprocess, "run", commands)
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return commands


@pytest.fixture
def main() -> Main:
    function: Main = runpy.run_path(str(ROOT / "docker/install.py"))["main"]
    return function


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_uv_finds_the_build_for_the_device(device: str, main: Main, commands: Commands) -> None:
    main(["torch", device])
    assert commands.has(rf"^uv pip install .*--torch-backend={device} torch==[\d.]+$")
    assert not commands.has(r"^pip install .*torch")


def test_without_the_index_of_torch_the_build_of_pypi_is_installed_and_said(
    main: Main, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.failing = "torch-backend"
    main(["torch", "auto"])
    assert commands.has(r"^uv pip install (?!.*torch-backend).*torch==[\d.]+$")
    assert not commands.has(r"^pip install .*torch")
    assert "2.6 GB" in capsys.readouterr().err


def test_an_image_for_cuda_is_built_where_no_gpu_is(main: Main, commands: Commands) -> None:
    main(["torch", "cuda"])
    assert commands.has(r"^uv pip install .*torch==[\d.]+$")
    assert not commands.has("torch-backend")


@pytest.mark.parametrize("failing", ["^uv ", "^pip install --quiet uv="])
def test_where_uv_cannot_pip_installs(
    failing: str, main: Main, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.failing = failing
    main(["torch", "auto"])
    main(["packages", "-c", "constraints.txt", "-e", "."])
    assert commands.has(r"^pip install --quiet torch==[\d.]+$")
    assert commands.has(r"^pip install --quiet -c constraints\.txt -e \.$")
    assert "pip does" in capsys.readouterr().err


def test_packages_are_what_pip_would_be_given(main: Main, commands: Commands) -> None:
    main(["packages", "-c", "constraints.txt", "-e", "."])
    assert commands.has(r"^uv pip install .* -c constraints\.txt -e \.$")
    assert not commands.has("^pip install (?!.*uv==)")


def test_the_index_of_pip_is_that_of_uv(main: Main, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["packages", "x"])
    assert commands.index_of_uv is None
    commands.index_of_pip = "https://mirror.example/simple"
    main(["packages", "x"])
    assert commands.index_of_uv == "https://mirror.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    main(["packages", "x"])
    assert commands.index_of_uv == "https://pip.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    main(["packages", "x"])
    assert commands.index_of_uv == "https://uv.example/simple"


def test_arguments_for_pip_are_taken_as_they_are(main: Main, commands: Commands) -> None:
    main(["torch", "auto", "torch==2.13.0", "--index-url", "https://example.org"])
    assert commands.run == ["pip install --quiet torch==2.13.0 --index-url https://example.org"]


@pytest.mark.parametrize("arguments", [[], ["torch"], ["torch", "gpu"], ["packages"]])
def test_other_arguments_are_refused(arguments: list[str], main: Main, commands: Commands) -> None:
    with pytest.raises(SystemExit, match="auto, cpu, cuda"):
        main(arguments)
    assert not commands.run


def test_the_status_of_pip_is_the_scripts(main: Main, commands: Commands) -> None:
    commands.failing = "."
    with pytest.raises(SystemExit) as caught:
        main(["torch", "cuda"])
    assert caught.value.code == 5
