"""docker/install_torch.py: which build of torch a machine or an image gets."""

import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


class Commands:
    """What would have been run, without the interpreter; those whose module is in `failing` fail."""

    def __init__(self) -> None:
        self.run: list[str] = []
        self.failing: set[str] = set()

    def __call__(
        self, command: list[str], *, check: bool = False, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        self.run.append(" ".join(command[2:]))
        status = 5 if command[2] in self.failing else 0
        if check and status:
            raise subprocess.CalledProcessError(status, command)
        return subprocess.CompletedProcess(command, status)

    def has(self, pattern: str) -> bool:
        return any(re.search(pattern, command) for command in self.run)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(subprocess, "run", commands)
    return commands


@pytest.fixture
def main() -> Callable[[list[str]], Any]:
    function: Callable[[list[str]], Any] = runpy.run_path(str(ROOT / "docker/install_torch.py"))["main"]
    return function


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_uv_finds_the_build_for_the_device(device: str, main: Callable[..., None], commands: Commands) -> None:
    main([device])
    assert commands.has(rf"^uv pip install .*--torch-backend={device} torch==[\d.]+$")
    assert not commands.has(r"^pip install .*torch")


def test_without_the_index_of_torch_the_build_of_pypi_is_installed_and_said(
    main: Callable[..., None], commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.failing = {"uv"}
    main(["auto"])
    assert commands.has(r"^pip install .*torch==[\d.]+$")
    assert "2.6 GB" in capsys.readouterr().err


def test_an_image_for_cuda_is_built_where_no_gpu_is(main: Callable[..., None], commands: Commands) -> None:
    main(["cuda"])
    assert commands.has(r"^pip install .*torch==[\d.]+$")
    assert not commands.has("^uv ")


def test_arguments_for_pip_are_taken_as_they_are(main: Callable[..., None], commands: Commands) -> None:
    main(["auto", "torch==2.13.0", "--index-url", "https://example.org"])
    assert commands.run == ["pip install --quiet torch==2.13.0 --index-url https://example.org"]


@pytest.mark.parametrize("arguments", [[], ["gpu"]])
def test_another_device_is_refused(arguments: list[str], main: Callable[..., None], commands: Commands) -> None:
    with pytest.raises(SystemExit, match="auto, cpu, cuda"):
        main(arguments)
    assert not commands.run


def test_the_status_of_pip_is_the_scripts(main: Callable[..., None], commands: Commands) -> None:
    commands.failing = {"pip"}
    with pytest.raises(SystemExit) as caught:
        main(["cuda"])
    assert caught.value.code == 5
