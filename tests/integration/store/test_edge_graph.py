"""The graph of an embedded collection: built by a process of its own, read as one ranking, and lost by no death."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from indexer.domain.documents import point_id
from indexer.domain.points import MetadataChange, Part, Point, mean_of
from indexer.filters import AnyOf, Equals, FieldType
from indexer.store.base import SearchWindow
from indexer.store.criteria import Boosted, FieldBoost, Hybrid, Nearest, ReciprocalRanks, WordMatch
from indexer.store.edge import build as edge_build
from indexer.store.edge import opened
from indexer.store.edge import shards as edge_shards
from indexer.store.edge.graph import Graph, GraphSearch
from indexer.store.edge.settings import EdgeSettings
from indexer.store.edge.shards import Shards
from indexer.store.edge.slices import Paused
from indexer.store.payload import path_of
from model.errors import DependencyUnavailable
from model.types import Float32

D, N = 32, 3_000


@pytest.fixture(autouse=True)
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "GRAPH_BYTES", 4 * D * 1_000)
    monkeypatch.setattr(opened, "TAIL_BYTES", 4 * D * 250)
    monkeypatch.setattr(edge_shards, "RETRY_S", 0.0)
    # So that the engine walks a graph of so few points.
    monkeypatch.setattr(edge_build, "FULL_SCAN_KB", 1)


@pytest.fixture(scope="module")
def vectors() -> Float32:
    return np.random.default_rng(5).standard_normal((N + 200, D)).astype(np.float32)


def points(vectors: Float32, start: int, stop: int) -> list[Point]:
    return [Point(f"d{i}", vectors[i], f"word{i % 7}", None, {"k": f"k{i % 10}"}, "") for i in range(start, stop)]


@pytest.fixture
def shards(tmp_path: Path, vectors: Float32) -> Iterator[Shards]:
    opened = Shards(tmp_path)
    opened.create("c", D, {"k": FieldType.KEYWORD})
    opened.upsert("c", points(vectors, 0, N))
    yield opened
    opened.close()


def tidied(shards: Shards, stage: str | None = None, timeout_s: float = 60) -> None:
    """Tidy until there is no more to do, or until the build of collection c is there."""
    give_up_at = time.monotonic() + timeout_s
    while shards.untidy:
        build = shards._open["c"].build
        if stage is not None and build is not None and build.stage == stage:
            return
        shards.tidy()
        time.sleep(0.01 if shards.waiting else 0)
        assert time.monotonic() < give_up_at


def ids(shards: Shards, query: Float32, window: SearchWindow) -> list[str]:
    hits = shards.reader.search("c", Nearest(query), window)
    assert isinstance(hits, list)
    return [hit.document_id for hit in hits]


def test_a_graph_is_built_and_finds_the_nearest(shards: Shards, vectors: Float32) -> None:
    tidied(shards, "building")
    assert shards.summary("c").upkeep == ("(graph)",)
    tidied(shards)
    assert shards.summary("c").upkeep == ()
    graph = shards._open["c"].graph
    assert graph is not None
    assert graph.points == N
    assert shards._open["c"].shard.info().indexed_vectors_count >= N
    shards._open["c"].graph = Graph(N, 128)
    for condition in (None, Equals("k", "k3")):
        truth = [ids(shards, query, SearchWindow(10, condition=condition, exact=True)) for query in vectors[N:]]
        found = [ids(shards, query, SearchWindow(10, condition=condition)) for query in vectors[N:]]
        shares = [len({*hits} & {*exact}) / 10 for hits, exact in zip(found, truth, strict=True)]
        assert np.mean(shares) >= 0.99


def test_a_filter_that_leaves_few_points_is_searched_more_broadly(
    shards: Shards, vectors: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not where the caller says how broadly, or where one value has links of its own in the graph."""
    tidied(shards)
    shards._open["c"].graph = Graph(N, 128)
    breadths: list[int] = []
    params = GraphSearch.params
    monkeypatch.setattr(
        GraphSearch, "params", lambda self, breadth, limit: breadths.append(breadth) or params(self, breadth, limit)
    )

    def breadth(window: SearchWindow) -> int:
        breadths.clear()
        assert len(ids(shards, vectors[N], window)) == 10
        return breadths[0]

    def values(count: int) -> AnyOf:
        return AnyOf(tuple(Equals("k", f"k{number}") for number in range(count)))

    assert breadth(SearchWindow(10)) == 128
    assert breadth(SearchWindow(10, condition=values(2))) == 256
    assert breadth(SearchWindow(10, condition=values(2), ef=64)) == 64
    assert breadth(SearchWindow(10, condition=values(3))) == 128
    assert breadth(SearchWindow(10, condition=Equals("k", "k3"))) == 128


def test_pages_through_a_graph_are_windows_into_one_ranking(shards: Shards, vectors: Float32) -> None:
    """With so little breadth that wider searches find more."""
    tidied(shards)
    shards._open["c"].graph = Graph(N, 16)
    narrow = 0
    for query in vectors[N : N + 5]:
        whole = ids(shards, query, SearchWindow(300))
        assert len(set(whole)) == 300
        for size in (10, 7, 33):
            walked = [hit for start in range(0, 300, size) for hit in ids(shards, query, SearchWindow(size, start))]
            assert walked[:300] == whole
        narrow += whole != ids(shards, query, SearchWindow(300, exact=True))
    assert narrow


def test_candidates_of_both_rankings_come_from_one_search_of_each(
    shards: Shards, vectors: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However narrow a page's search of the graph would be."""
    opened = shards._open["c"]
    shard, limits = opened.shard, []

    def query(request: Any) -> object:
        limits.append(request.limit)
        return shard.query(request)

    opened.graph = Graph(N, 16)
    monkeypatch.setattr(opened, "shard", SimpleNamespace(query=query, retrieve=shard.retrieve, info=shard.info))
    hybrid = Hybrid(Nearest(vectors[N]), WordMatch("word3"), ReciprocalRanks(60), 200)
    hits = shards.reader.search("c", hybrid, SearchWindow(10))
    monkeypatch.undo()
    assert isinstance(hits, list)
    assert len(hits) == 10
    assert min(limits) > 200


def test_what_is_newer_than_the_graph_is_found_and_gone(shards: Shards, vectors: Float32) -> None:
    tidied(shards, "building")
    shards.upsert("c", points(vectors, N, N + 100))
    shards.delete("c", ["d0", "d1"])
    assert ids(shards, vectors[N], SearchWindow(1)) == [f"d{N}"]
    tidied(shards)
    shards.upsert("c", points(vectors, N + 100, N + 200))
    shards.delete("c", ["d2"])
    for place in (N, N + 100):
        assert ids(shards, vectors[place], SearchWindow(1)) == [f"d{place}"]
    for place in (0, 1, 2):
        assert ids(shards, vectors[place], SearchWindow(1)) != [f"d{place}"]
    assert shards.reader.count("c") == N + 200 - 3
    assert shards._open["c"].upkeep.written == 200


def test_a_quarter_of_what_is_worth_a_graph_is_brought_into_it(shards: Shards, vectors: Float32) -> None:
    tidied(shards)
    # One that pays, whatever was measured of so few points.
    shards._open["c"].graph = Graph(N, 128)
    shards.upsert("c", points(vectors, N, N + 200))
    tidied(shards)
    assert shards._open["c"].graph == Graph(N, 128)
    shards.upsert("c", points(vectors, 0, 50))
    tidied(shards)
    graph = shards._open["c"].graph
    assert graph is not None
    assert graph.points == N + 200


def test_metadata_changed_during_a_build_are_there_after_it(shards: Shards, vectors: Float32) -> None:
    tidied(shards, "building")
    shards.set_metadata("c", [MetadataChange("d5", {"k": "new"}, "h")])
    tidied(shards)
    assert ids(shards, vectors[7], SearchWindow(5, condition=Equals("k", "new"))) == ["d5"]


@pytest.mark.parametrize("stage", ["copying", "building", "finishing"])
def test_kill_9_of_the_builder_costs_a_build_alone(shards: Shards, vectors: Float32, stage: str) -> None:
    tidied(shards, stage)
    build = shards._open["c"].build
    assert build is not None
    os.kill(build.process.pid, signal.SIGKILL)
    with pytest.raises(DependencyUnavailable, match="SIGKILL"):
        tidied(shards)
    assert shards._open["c"].lacks is not None
    shards.upsert("c", points(vectors, N, N + 1))
    tidied(shards)
    assert shards._open["c"].graph is not None
    assert shards._open["c"].lacks is None
    assert shards.reader.count("c") == N + 1
    assert ids(shards, vectors[N], SearchWindow(1)) == [f"d{N}"]


def test_what_would_change_the_shard_waits_while_it_is_copied(shards: Shards, vectors: Float32, tmp_path: Path) -> None:
    tidied(shards, "copying")
    with pytest.raises(Paused):
        shards.upsert("c", points(vectors, N, N + 1))
    with pytest.raises(Paused):
        shards.create("c", D, {"k": FieldType.NUMBER})
    with pytest.raises(Paused):
        shards.copy("c", tmp_path / "copy")
    assert ids(shards, vectors[3], SearchWindow(1)) == ["d3"]
    tidied(shards)
    shards.upsert("c", points(vectors, N, N + 1))
    assert shards.reader.count("c") == N + 1


def test_an_index_declared_during_a_build_is_made_by_the_next(shards: Shards) -> None:
    tidied(shards, "building")
    shards.create("c", D, {"k": FieldType.NUMBER})
    assert path_of("k") not in shards._open["c"].indexed
    tidied(shards)
    assert shards._open["c"].indexed[path_of("k")] == FieldType.NUMBER


def test_vectors_kept_as_bytes_find_the_nearest_with_whole_scores(tmp_path: Path, vectors: Float32) -> None:
    shards = Shards(tmp_path, settings=EdgeSettings(quantization="scalar"))
    shards.create("c", D, {})
    shards.upsert("c", points(vectors, 0, N))
    tidied(shards)
    graph = shards._open["c"].graph
    assert graph is not None
    assert graph.quantized
    shards._open["c"].graph = Graph(N, 128, True)
    shares = []
    for query in vectors[N:]:
        exact, walked = (
            {(hit.document_id, round(hit.score, 5)) for hit in shards.reader.search("c", Nearest(query), window)}
            for window in (SearchWindow(10, exact=True), SearchWindow(10))
        )
        shares.append(len(exact & walked) / 10)
    assert np.mean(shares) >= 0.99
    shards.close()


def in_parts(unit: Float32, start: int, stop: int) -> list[Point]:
    """Documents of three parts, with vectors that no other document has."""
    documents = []
    for place in range(start, stop):
        rows = np.roll(unit[3 * place : 3 * place + 3], 1, axis=1)
        point = Point(f"d{place}", mean_of(rows), "one two three", None, {"k": f"k{place % 10}"}, "")
        documents.append(replace(point, parts=(Part(0, 3), Part(4, 7), Part(8, 13)), part_vectors=rows))
    return documents


def scores_in_parts(unit: Float32) -> Float32:
    """The scores of all documents, the first 50 of them in parts, for each query."""
    parts = np.roll(unit[:150], 1, axis=1) @ unit[N:].T
    scores: Float32 = np.vstack([parts.reshape(50, 3, -1).max(1), unit[50:N] @ unit[N:].T])
    return scores


@pytest.mark.parametrize("stage", ["copying", "building", "ready", None])
def test_the_first_documents_of_several_parts_come_when_there_is_a_graph_or_a_builder(
    shards: Shards, vectors: Float32, stage: str | None
) -> None:
    tidied(shards, stage)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if stage == "copying":
        with pytest.raises(Paused):
            shards.upsert("c", in_parts(unit, 0, 50))
        tidied(shards, "building")
    assert not shards._open["c"].has_parts
    # In place of documents of one part.
    shards.upsert("c", in_parts(unit, 0, 50))
    tidied(shards)
    assert shards._open["c"].has_parts
    shards._open["c"].graph = Graph(N, 256)
    scores = scores_in_parts(unit)
    shares = []
    for column, query in enumerate(vectors[N : N + 60]):
        exact = [f"d{place}" for place in np.argsort(-scores[:, column])[:10]]
        assert ids(shards, query, SearchWindow(10, exact=True)) == exact
        found = ids(shards, query, SearchWindow(10))
        shares.append(len({*found} & {*exact}) / 10)
        walked = [hit for start in range(0, 60, 20) for hit in ids(shards, query, SearchWindow(20, start))]
        assert walked == ids(shards, query, SearchWindow(60))
    assert np.mean(shares) >= 0.99


def test_a_death_while_the_vector_of_parts_is_added_costs_nothing(
    shards: Shards, vectors: Float32, tmp_path: Path
) -> None:
    """Which the engine notes in the segments and in its configuration, one after the other."""
    documents = in_parts(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 0, 5)
    shards.upsert("c", documents)
    shards.close()
    config = tmp_path / "c" / "shard" / "edge_config.json"
    noted = json.loads(config.read_text())
    del noted["vectors"]["parts"]
    config.write_text(json.dumps(noted))
    again = Shards(tmp_path)
    (read,) = again.reader.read("c", [point_id("d3")])
    assert read is not None
    np.testing.assert_allclose(read.vectors, documents[3].vectors, atol=1e-6)
    again.close()


def test_collections_of_before_keep_one_vector_and_those_of_several_parts_together(
    tmp_path: Path, vectors: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_shards, "replace", lambda layout, apart: layout)
    shards = Shards(tmp_path)
    shards.create("c", D, {})
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shards.upsert("c", [*in_parts(unit, 0, 50), *points(vectors, 50, N)])
    tidied(shards)
    shards._open["c"].graph = Graph(N, 256)
    scores = scores_in_parts(unit)
    for column, query in enumerate(vectors[N : N + 20]):
        exact = [f"d{place}" for place in np.argsort(-scores[:, column])[:10]]
        assert ids(shards, query, SearchWindow(10, exact=True)) == exact
        assert len({*ids(shards, query, SearchWindow(10))} & {*exact}) >= 8
    assert not shards._open["c"].has_parts
    shards.close()


@pytest.mark.parametrize("quantization", ["none", "scalar"])
def test_documents_of_several_parts_are_found_through_a_graph(
    tmp_path: Path, vectors: Float32, quantization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "GRAPH_BYTES", 4 * D * 300)
    shards = Shards(tmp_path, settings=EdgeSettings(quantization=quantization))
    shards.create("c", D, {"n": FieldType.NUMBER})
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    documents = []
    for place, rows in enumerate(unit[:N].reshape(-1, 3, D)):
        point = Point(f"d{place}", mean_of(rows), "one two three", None, {"n": place % 50}, "")
        documents.append(replace(point, parts=(Part(0, 3), Part(4, 7), Part(8, 13)), part_vectors=rows))
    shards.upsert("c", documents)
    tidied(shards)
    assert shards._open["c"].graph is not None
    shards._open["c"].graph = Graph(len(documents), 192, quantization == "scalar")
    plain, boosted = [], []
    for query in unit[N : N + 60]:
        near = Nearest(query)
        for criterion, shares in ((near, plain), (Boosted(near, (FieldBoost("n", 0.002),), 100), boosted)):
            exact, walked = (
                {(hit.document_id, round(hit.score, 4)) for hit in shards.reader.search("c", criterion, window)}
                for window in (SearchWindow(10, exact=True), SearchWindow(10))
            )
            shares.append(len(exact & walked) / 10)
        best = (unit[:N] @ query).reshape(-1, 3).max(1)
        assert ids(shards, query, SearchWindow(1, exact=True)) == [f"d{int(best.argmax())}"]
    assert np.mean(plain) >= 0.99
    assert np.mean(boosted) >= 0.98
    shards.close()
