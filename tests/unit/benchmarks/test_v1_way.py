"""That both sides of every comparison are given the same work, at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import inputs
from benchmarks.bare import prepared
from benchmarks.checkpoints import RET2, V1, assert_lengths, clip_folder, ret2_folder, words_tokenizer
from benchmarks.inputs import Kind
from benchmarks.v1_way import V1Way
from model.retriever import Retriever


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_BENCH_CACHE", str(tmp_path))


def test_the_v1_way_computes_the_same_vectors() -> None:
    folder = ret2_folder("toy", V1, vocabulary="words")
    ours, theirs = Retriever.load(str(folder)), V1Way(folder)
    batch = prepared(ours, inputs.mixed(3, 2, 2))
    vectors = ours.encode(batch)
    np.testing.assert_allclose(theirs.encode(batch), vectors, atol=1e-5)
    assert len(np.unique(vectors.round(4), axis=0)) == len(batch)


def test_no_tower_of_ours_ends_before_the_peers() -> None:
    retriever = Retriever.load(str(ret2_folder("toy", RET2, vocabulary="words")))
    for tower, part in (
        (retriever.text_tower, retriever.config.text),
        (retriever.vision_tower, retriever.config.vision),
    ):
        assert max(part.layers) == tower.encoder.config.num_hidden_layers - 1
    assert RET2.layers(12) == (3, 7, 11)
    assert V1.layers(12) == tuple(range(12))


def test_folders_are_made_once() -> None:
    first = clip_folder("toy", vocabulary="words")
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert (clip_folder("toy", vocabulary="words") / "model.safetensors").stat().st_mtime_ns == made


def test_texts_have_the_length_that_is_stated_and_differ() -> None:
    texts = inputs.texts(40)
    assert_lengths(words_tokenizer(), texts)
    assert len(set(texts)) == 40
    with pytest.raises(ValueError, match="tokens"):
        assert_lengths(words_tokenizer(), ["a cat"])


def test_a_mix_has_what_it_says() -> None:
    kinds = [(item.text is not None, item.image is not None) for item in inputs.mixed(14, 3, 3)]
    assert kinds == [(True, False)] * 14 + [(False, True)] * 3 + [(True, True)] * 3
    with pytest.raises(ValueError, match="infinity"):
        inputs.infinity_bodies(inputs.items(Kind.BOTH, 1), "clip")
