"""A later start reads graphs and no module, as long as the checkpoint is the one that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_model import CONFIG, write_tiny_checkpoint

from model.checkpoints import kinds
from model.cpu import compiler, graph
from model.retriever import Retriever
from model.types import Encoded, Input, Limits, ModelInfo, Role

pytestmark = pytest.mark.skipif(not graph.available(), reason="needs openvino")

CONFIGS = {"one side": CONFIG, "two sides": replace(CONFIG, pooling="none", shared_sides=False)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the checkpoints that were read into modules."""
    names: list[str] = []
    read = kinds.read_checkpoint
    monkeypatch.setattr(kinds, "read_checkpoint", lambda location: names.append(location.name) or read(location))
    return names


def launch(retriever: Retriever, png: Callable[..., bytes], role: Role = Role.QUERY) -> Encoded:
    inputs = [Input("a red square"), Input(image=png("red")), Input("what is this", png("blue"))]
    return retriever.launch([retriever.prepare(item, role, Limits()) for item in inputs])()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_later_start_is_the_same_without_a_module(
    name: str, tmp_path: Path, cache: Path, reads: list[str], png: Callable[..., bytes]
) -> None:
    folder = str(write_tiny_checkpoint(tmp_path / "model", CONFIGS[name]))
    first = Retriever.load_compiled(folder, "bfloat16", cache=cache)
    later = Retriever.load_compiled(folder, "bfloat16", cache=cache)
    assert len(reads) == 1
    assert later.info == first.info
    assert later.info.precision == "bfloat16"
    for role in Role:
        expected, actual = launch(first, png, role), launch(later, png, role)
        for field in ("vectors", "shares", "latents"):
            np.testing.assert_array_equal(getattr(actual, field), getattr(expected, field))
    exact = Retriever.load_compiled(folder, cache=cache)
    assert len(reads) == 1
    assert np.abs(launch(exact, png).vectors - launch(Retriever.load(folder), png).vectors).max() <= 1e-5


def _other_weights(folder: Path) -> None:
    """Of the same size, at the same time."""
    file = folder / "model.safetensors"
    weights = {name: -value for name, value in load_file(file).items()}
    save_file(weights, file)


def _other_settings(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"max_text_tokens": 16', '"max_text_tokens": 12'))


def _one_more_setting(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("{}")


@pytest.mark.parametrize("change", [_other_weights, _other_settings, _one_more_setting])
def test_a_checkpoint_that_changed_is_read_again(
    change: Callable[[Path], None], folder: Path, cache: Path, reads: list[str]
) -> None:
    def start() -> ModelInfo:
        return Retriever.load_compiled(str(folder), cache=cache).info

    start()
    change(folder)
    assert start() == Retriever.load(str(folder)).info
    assert len(reads) == 3
    start()
    assert len(reads) == 3


@pytest.mark.parametrize("file", ["text_tower.xml", "sides.shared-both.xml", "outline.json"])
def test_a_damaged_file_costs_only_time(file: str, folder: Path, cache: Path, reads: list[str]) -> None:
    for _ in range(2):
        Retriever.load_compiled(str(folder), cache=cache)
        next(cache.rglob(file)).write_text("<net")
    Retriever.load_compiled(str(folder), cache=cache)
    assert len(reads) == 3


def test_a_model_with_a_part_in_torch_is_read_every_time(
    folder: Path, cache: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "_TOLERANCE", -1.0)
    for _ in range(2):
        assert Retriever.load_compiled(str(folder), cache=cache).stayed
    assert len(reads) == 2
