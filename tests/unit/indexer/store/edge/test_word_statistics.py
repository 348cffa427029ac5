"""Scores of words count the documents that are there, whatever was deleted or replaced, with and without a graph."""

from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as qe
from fake_store import bm25

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.store.base import SearchWindow
from indexer.store.criteria import WordMatch
from indexer.store.edge.build import REMOVED
from indexer.store.edge.ranking import vector_params
from indexer.store.edge.shards import Shards

D = 4


def assert_textbook(shards: Shards, texts: dict[str, str]) -> None:
    places = shards.reader.rank("c", WordMatch("word3 shoe1 x7"), SearchWindow(40))
    assert not isinstance(places, list) or places
    expected = bm25(texts, "word3 shoe1 x7", "simple")
    best = sorted(expected.values(), reverse=True)[: len(places)]
    assert [place.score for place in places] == pytest.approx(best, rel=1e-5)  # type: ignore[union-attr]
    scores = {point_id(name): score for name, score in expected.items()}
    assert [scores[place.point_id] for place in places] == pytest.approx(best, rel=1e-5)  # type: ignore[union-attr]


def upsert(shards: Shards, texts: dict[str, str], numbers: range, kind: str) -> None:
    written = {f"d{i}": f"word{i % 7} shoe{i % 3} {kind}{i % 50}" for i in numbers}
    vectors = np.random.default_rng(numbers.start).standard_normal((len(numbers), D)).astype(np.float32)
    points = [
        Point(name, vector, text, None, {}, "") for (name, text), vector in zip(written.items(), vectors, strict=True)
    ]
    shards.upsert("c", points)
    texts |= written


def delete(shards: Shards, texts: dict[str, str], numbers: range) -> None:
    shards.delete("c", [f"d{i}" for i in numbers])
    for i in numbers:
        texts.pop(f"d{i}")


def build_graph(shards: Shards) -> None:
    """Build the segments anew, as a build of the graph does."""
    opened = shards._open["c"]
    shards._close("c")
    config = qe.EdgeConfig(
        **vector_params(opened.layout),
        optimizers=qe.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
    )
    shard = qe.EdgeShard.load(str(opened.path), config)
    assert shard.optimize()
    shard.close()
    (opened.path / REMOVED).unlink(missing_ok=True)


def test_word_scores_count_what_is_there(tmp_path: Path) -> None:
    shards, texts = Shards(tmp_path), {}
    shards.create("c", D, {})
    upsert(shards, texts, range(600), "x")
    assert not shards._open["c"].removed
    assert_textbook(shards, texts)
    upsert(shards, texts, range(100), "y")
    assert shards._open["c"].removed
    assert_textbook(shards, texts)
    delete(shards, texts, range(0, 300, 3))
    assert_textbook(shards, texts)
    shards._close("c")
    assert_textbook(shards, texts)
    assert not shards._open["c"].removed, "loaded again, an appendable segment counts what is there"
    build_graph(shards)
    assert_textbook(shards, texts)
    assert not shards._open["c"].removed
    upsert(shards, texts, range(600, 700), "x")
    assert not shards._open["c"].removed
    assert_textbook(shards, texts)
    upsert(shards, texts, range(400, 500), "y")
    delete(shards, texts, range(1, 300, 3))
    assert_textbook(shards, texts)
    shards._close("c")
    assert_textbook(shards, texts)
    assert shards._open["c"].removed, "of a built segment nothing is left out"
    shards.close()
