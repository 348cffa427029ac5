"""A compiled model computes what the model computes, from files that are whole and its own."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from needs import needed
from tiny_model import CONFIG, write_tiny_checkpoint

from model.cpu import compiler, graph
from model.cpu.compiled import CompiledTower
from model.retriever import Retriever
from model.types import Encoded, Input, Limits, Role

pytestmark = pytest.mark.skipif(not graph.available(), reason="needs openvino")

TEXTS = (None, "a red square", "what is the capital of this country", "one")
COLOURS = (None, "red", "blue")
CONFIGS = {
    "latents of two sides": replace(CONFIG, pooling="none", shared_sides=False),
    "features on a state": replace(CONFIG, global_features="added"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def items(png: Callable[..., bytes]) -> list[Input]:
    pairs = [pair for pair in itertools.product(TEXTS, COLOURS) if pair != (None, None)]
    return [Input(text, png(colour) if colour else None) for text, colour in pairs]


def launch(retriever: Retriever, inputs: list[Input], role: Role) -> Encoded:
    return retriever.launch([retriever.prepare(item, role, Limits()) for item in inputs])()


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_is_the_same(name: str, tmp_path: Path, cache: Path, png: Callable[..., bytes]) -> None:
    """Vectors, shares and latents; of text, images and both; in a batch and alone."""
    folder = str(write_tiny_checkpoint(tmp_path, CONFIGS[name]))
    plain, quick = Retriever.load(folder), Retriever.load(folder).compiled(cache=cache)
    assert quick.stayed == {}
    assert not list(quick.parameters())
    for role in Role:
        expected, actual = launch(plain, items(png), role), launch(quick, items(png), role)
        for field in ("vectors", "shares", "latents"):
            reference, values = getattr(expected, field), getattr(actual, field)
            assert (reference is None) is (values is None)
            assert reference is None or np.abs(values - reference).max() <= 1e-5
        alone = np.concatenate([launch(quick, [item], role).vectors for item in items(png)])
        assert np.abs(alone - expected.vectors).max() <= 1e-5


def test_a_later_start_reads_the_files_and_makes_a_damaged_one_anew(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, png: Callable[..., bytes]
) -> None:
    conversions: list[object] = []
    convert = compiler.convert
    monkeypatch.setattr(compiler, "convert", lambda module, *rest: conversions.append(module) or convert(module, *rest))

    def start() -> int:
        conversions.clear()
        retriever = Retriever.load(str(tiny_folder)).compiled(cache=tmp_path)
        assert np.isfinite(retriever.encode([retriever.prepare(Input("one", png()), Role.QUERY, Limits())])).all()
        return len(conversions)

    assert start() == 5  # two towers, and the side for text, images and both
    assert start() == 0
    next(tmp_path.rglob("vision_tower.xml")).write_text("<net")
    assert start() == 1


def test_graphs_of_other_code_and_of_models_long_unused_are_removed(tmp_path: Path) -> None:
    present, earlier, other, unused = (tmp_path / name for name in ("abc-2", "abc-1", "def-1", "ghi-1"))
    for folder in (present, earlier, other, unused):
        folder.mkdir()
    os.utime(unused, (0, 0))
    compiler._prune(present)
    assert sorted(tmp_path.iterdir()) == [present, other]


@pytest.mark.parametrize("fault", ["conversion", "values", "unwritable"])
def test_a_part_that_cannot_be_compiled_stays_in_torch(
    fault: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Retriever
) -> None:
    """A cache that cannot be written costs only time."""
    if fault == "conversion":
        monkeypatch.setattr(compiler, "convert", lambda *_: 1 / 0)
    elif fault == "values":
        monkeypatch.setattr(compiler, "_TOLERANCE", -1.0)
    else:
        (tmp_path / "graphs").write_text("a file")
    retriever = Retriever.load(str(tiny_folder)).compiled(cache=tmp_path)
    item = tiny.prepare(Input("one"), Role.QUERY, Limits())
    assert np.abs(retriever.encode([item]) - tiny.encode([item])).max() <= 1e-6
    if fault == "unwritable":
        assert retriever.stayed == {}
        return
    assert set(retriever.stayed) == {"sides.shared", "text_tower", "vision_tower"}
    reason = "ZeroDivisionError: division by zero" if fault == "conversion" else "ValueError: its graph differs"
    assert retriever.stayed["text_tower"].startswith(reason)
    assert not isinstance(retriever.text_tower, CompiledTower)


def test_bfloat16_is_near(tiny_folder: Path, cache: Path, tiny: Retriever, png: Callable[..., bytes]) -> None:
    half = Retriever.load(str(tiny_folder)).compiled("bfloat16", cache=cache)
    assert half.info.precision == "bfloat16"
    near, exact = launch(half, items(png), Role.QUERY).vectors, launch(tiny, items(png), Role.QUERY).vectors
    assert near.dtype == np.float32
    assert ((near * exact).sum(axis=1) > 0.995).all()


def test_nothing_is_sent_to_the_makers_of_openvino() -> None:
    """Its package `openvino_telemetry` would, at every import."""
    assert sys.modules["openvino_telemetry"] is None


def test_threads_have_requests_of_their_own(tiny_folder: Path, cache: Path, tiny: Retriever) -> None:
    retriever = Retriever.load(str(tiny_folder)).compiled(cache=cache)
    texts = ["one", "a red square", "two", "the flag of this country"] * 8
    batches = [[tiny.prepare(Input(text), Role.QUERY, Limits())] for text in texts]
    expected = [tiny.encode(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(retriever.encode, batches))
    assert np.abs(np.concatenate(actual) - np.concatenate(expected)).max() <= 1e-5


def test_int8_is_near_and_says_so(tmp_path: Path, cache: Path, png: Callable[..., bytes]) -> None:
    """Calibrated once: what it made is read by a process that has nothing to calibrate with."""
    needed("nncf")
    folder = str(write_tiny_checkpoint(tmp_path, CONFIG))
    plain, inputs = Retriever.load(folder), items(png)
    calibrated = Retriever.load(folder).compiled("int8", cache=cache, calibration=inputs)
    assert calibrated.stayed == {}
    assert calibrated.info.precision == "int8"
    again = Retriever.load(folder).compiled("int8", cache=cache)
    expected, actual, read = (launch(each, inputs, Role.QUERY).vectors for each in (plain, calibrated, again))
    assert (expected * actual).sum(axis=-1).min() > 0.9
    assert np.abs(expected - actual).max() > 1e-5
    np.testing.assert_array_equal(read, actual)
