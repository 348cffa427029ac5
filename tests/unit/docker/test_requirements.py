"""docker/requirements.py: what an image installs before any code."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYPROJECT = """
[project]
dependencies = ["fastapi>=1", "numpy"]
[project.optional-dependencies]
encoder = ["torch"]
demo = ["ret2[encoder]", "weights==1"]
"""


@pytest.fixture(scope="module")
def requirements() -> Callable[..., list[str]]:
    function: Callable[..., list[str]] = runpy.run_path(str(ROOT / "docker/requirements.py"))["requirements"]
    return function


@pytest.mark.parametrize(
    ("extras", "wanted"),
    [
        ([], ["fastapi>=1", "numpy"]),
        (["encoder"], ["fastapi>=1", "numpy", "torch"]),
        (["encoder", "demo"], ["fastapi>=1", "numpy", "torch", "weights==1"]),
    ],
)
def test_requirements(extras: list[str], wanted: list[str], requirements: Callable[..., list[str]]) -> None:
    assert requirements(PYPROJECT, extras) == wanted


def test_an_extra_that_there_is_not_stops_the_build(requirements: Callable[..., list[str]]) -> None:
    with pytest.raises(SystemExit, match="no extra 'encodr'"):
        requirements(PYPROJECT, ["encodr"])


def test_the_app_needs_no_torch(requirements: Callable[..., list[str]]) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert not [line for line in requirements(text, []) if line.startswith(("torch", "transformers", "safetensors"))]
    assert [line for line in requirements(text, ["encoder"]) if line.startswith("torch")]
