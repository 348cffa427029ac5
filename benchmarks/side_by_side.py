"""`python -m benchmarks.side_by_side [100000]`: the same vectors in this store, in its engine alone, in hnswlib, usearch and qdrant-client.

One run, one thread of callers, vectors in clusters of a hundred, ten hits; recall is against a plain product over all vectors. Engines
in the process return ids and scores; this store and a server are asked for the documents too. `pip install 'ret2[bench]'` first.
With RET2_TEST_QDRANT_URL set, the same for a Qdrant server: its client alone, and this store over it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import qdrant_edge as qe
from qdrant_client import QdrantClient
from qdrant_client import models as q
from usearch.index import Index

from benchmarks.edge_graphs import built
from benchmarks.figures import percentile
from benchmarks.machine import Machine, load_average
from indexer.domain.points import Point
from indexer.store.base import SearchWindow, Store
from indexer.store.criteria import Nearest
from indexer.store.edge.client import EdgeStore
from indexer.store.edge.graph import GRAPH
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.types import Float32

DIMENSIONS, CLUSTER, HITS, QUERIES, WRITE = 256, 100, 10, 200, 1_000
M, EF_CONSTRUCT, EF = 16, 100, 128
# Local mode takes a minute to write more, and compares every vector in Python's NumPy.
LOCAL_DOCUMENTS = 20_000
GRAPH_WAIT_S = 900.0

# Numbers of documents.
Found = Iterable[int]


def vectors(count: int) -> tuple[Float32, Float32]:
    """Return documents and queries, of unit length, the same at every call."""
    draw = np.random.default_rng(1)
    centres = draw.standard_normal((max(1, count // CLUSTER), DIMENSIONS)).astype(np.float32)
    made = centres[draw.integers(len(centres), size=count + QUERIES)]
    made += 0.5 * draw.standard_normal(made.shape).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made[:count], made[count:]


def exact(documents: Float32, queries: Float32) -> list[set[int]]:
    scores = queries @ documents.T
    return [set(row.tolist()) for row in np.argpartition(-scores, HITS, axis=1)[:, :HITS]]


def show(
    name: str, built_s: float, search: Callable[[Float32], Found], queries: Float32, truth: list[set[int]]
) -> None:
    """Print a row: each query alone, after ten that warm up."""
    for query in queries[:10]:
        search(query)
    took_ms, shares = [], []
    for query, best in zip(queries, truth, strict=True):
        began = time.perf_counter()
        hits = search(query)
        took_ms.append((time.perf_counter() - began) * 1e3)
        shares.append(len(set(hits) & best) / HITS)
    times = f"{percentile(took_ms, 50):.2f} | {percentile(took_ms, 95):.2f}"
    print(f"| {name} | {built_s:.1f} | {times} | {np.mean(shares):.3f} |", flush=True)


def in_process(documents: Float32, queries: Float32, truth: list[set[int]]) -> None:
    began = time.perf_counter()
    graph = hnswlib.Index("cosine", DIMENSIONS)
    graph.init_index(len(documents), M=M, ef_construction=EF_CONSTRUCT)
    graph.add_items(documents)
    graph.set_ef(EF)
    graph.set_num_threads(1)
    show(
        "hnswlib",
        time.perf_counter() - began,
        lambda query: graph.knn_query(query, HITS)[0][0].tolist(),
        queries,
        truth,
    )
    began = time.perf_counter()
    index = Index(
        ndim=DIMENSIONS, metric="cos", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCT, expansion_search=EF
    )
    index.add(np.arange(len(documents)), documents)
    show("usearch", time.perf_counter() - began, lambda query: index.search(query, HITS).keys.tolist(), queries, truth)


def client_alone(name: str, client: QdrantClient, documents: Float32, queries: Float32, truth: list[set[int]]) -> None:
    collection = f"side-by-side-{uuid.uuid4().hex[:8]}"
    began = time.perf_counter()
    client.create_collection(collection, q.VectorParams(size=DIMENSIONS, distance=q.Distance.COSINE))
    try:
        for first in range(0, len(documents), WRITE):
            ids: list[Any] = list(range(first, min(first + WRITE, len(documents))))
            client.upsert(collection, q.Batch(ids=ids, vectors=documents[first : first + WRITE].tolist()), wait=True)
        params = None if client.init_options.get("location") == ":memory:" else q.SearchParams(hnsw_ef=EF)

        def search(query: Float32) -> Found:
            answer = client.query_points(
                collection, query.tolist(), limit=HITS, search_params=params, with_payload=False
            )
            return [int(str(point.id)) for point in answer.points]

        show(name, time.perf_counter() - began, search, queries, truth)
    finally:
        client.delete_collection(collection)


class OurStore:
    """This store, filled and searched as the service does it."""

    def __init__(self, store: Store, name: str = "side-by-side") -> None:
        self._store, self._name = store, name
        self._runner = asyncio.Runner()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await awaitable

        return self._runner.run(awaited())

    def fill(self, documents: Float32) -> None:
        self.run(self._store.create(self._name, DIMENSIONS))
        points = self._store.points(self._name)
        for first in range(0, len(documents), WRITE):
            rows = enumerate(documents[first : first + WRITE], first)
            self.run(points.upsert([Point(str(number), row, "", None, {}, "") for number, row in rows]))

    def search(self, query: Float32) -> Found:
        hits = self.run(self._store.points(self._name).search(Nearest(query), SearchWindow(HITS)))
        return [int(hit.document_id) for hit in hits]

    def search_exactly(self, query: Float32) -> Found:
        hits = self.run(self._store.points(self._name).search(Nearest(query), SearchWindow(HITS, exact=True)))
        return [int(hit.document_id) for hit in hits]

    def drop(self) -> None:
        self.run(self._store.drop(self._name))

    def close(self) -> None:
        self.run(self._store.close())
        self._runner.close()


def embedded(folder: Path, documents: Float32, queries: Float32, truth: list[set[int]]) -> None:
    """Measure this store, and then the engine on the very files, in this process."""
    ours = OurStore(EdgeStore(folder))
    began = time.perf_counter()
    ours.fill(documents)
    filled_s = time.perf_counter() - began
    show("this store, every vector", filled_s, ours.search_exactly, queries, truth)
    ours.run(asyncio.wait_for(built(folder / "side-by-side", len(documents), DIMENSIONS), GRAPH_WAIT_S))
    built_s = time.perf_counter() - began
    show("this store", built_s, ours.search, queries, truth)
    ours.close()
    path = next((graph.parent for graph in folder.glob(f"side-by-side/shard*/{GRAPH}")), folder / "side-by-side/shard")
    shard = qe.EdgeShard.load(str(path))
    params = qe.SearchParams(hnsw_ef=EF)

    def search(query: Float32) -> Found:
        request = qe.QueryRequest(
            limit=HITS, query=qe.Query.Nearest(query.tolist()), params=params, with_payload=["document_id"]
        )
        return [int(hit.payload["document_id"]) for hit in shard.query(request) if hit.payload]

    show("its engine alone, in this process", built_s, search, queries, truth)
    shard.close()


def server(url: str, documents: Float32, queries: Float32, truth: list[set[int]]) -> None:
    client_alone("Qdrant server, its client alone", QdrantClient(url, timeout=60), documents, queries, truth)
    ours = OurStore(ServerStore(ServerStoreSettings(url, timeout_s=60, collection_prefix=f"bench{os.getpid()}")))
    began = time.perf_counter()
    ours.fill(documents)
    try:
        show("Qdrant server, this store", time.perf_counter() - began, ours.search, queries, truth)
    finally:
        ours.drop()
        ours.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100_000)
    count = parser.parse_args().count
    documents, queries = vectors(count)
    truth = exact(documents, queries)
    machine = Machine.read()
    print(
        f"## {machine.date}, {count:,} x {DIMENSIONS}, ten hits of one caller\n\n{machine}; load {load_average():.2f}\n"
    )
    print("| | built s | p50 ms | p95 ms | recall@10 |\n|---|---|---|---|---|")
    in_process(documents, queries, truth)
    with tempfile.TemporaryDirectory(prefix="ret2-side-") as folder:
        embedded(Path(folder), documents, queries, truth)
    few = documents[:LOCAL_DOCUMENTS]
    few_truth = truth if len(few) == count else exact(few, queries)
    name = f"qdrant-client's local mode, {len(few):,} documents"
    client_alone(name, QdrantClient(":memory:"), few, queries, few_truth)
    if url := os.environ.get("RET2_TEST_QDRANT_URL"):
        server(url, documents, queries, truth)


if __name__ == "__main__":
    main()
