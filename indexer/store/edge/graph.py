"""The graph of a shard: how it is built, and how widely a search reads it.

The breadth is measured when the graph is there, with queries near a document and between two: the least that finds 0.99
of the exact ten, and none where comparing every vector costs less. It stands beside the shard's files:

SHARD/graph.json                     as `Graph`; absent where a shard has no graph
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from heapq import nlargest
from pathlib import Path

import numpy as np
import qdrant_edge as qe

from indexer.store.base import Layout, SearchWindow
from indexer.store.breadths import breadths
from indexer.store.edge.settings import Quantization
from indexer.store.recall import sample_queries
from indexer.store.vectors import DENSE, PARTS, query_of, unpacked
from model.types import Float32

M, EF_CONSTRUCT = 16, 100
NEVER_KB = 2**40

_BREADTHS = (128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 4_096)
# Of the exact ten, for each kind of query. Of 117,000 glosses between two documents it takes 512, of queries like
# documents 0.995 are found with 64; half of them filtered, 0.996 with 256.
TARGET = 0.99
_HITS, _QUERIES = 10, 40
# Not in a random direction, where embeddings have neither documents nor queries: it would take a breadth of thousands.
_KINDS = ("near a document", "between two documents")
_OVERSAMPLING = 2.0
# A filter that leaves less than one point in so many takes a graph apart. One in five, two values without links of
# their own: 0.978 of the exact ten with `ef` 128, 0.993 with 256. Three in ten: 0.998 with 128.
_SPARSE = 4
# In a shard's folder.
GRAPH = "graph.json"


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph of so many `points`. `ef` is the breadth of a search, None where an exact search costs less."""

    points: int
    ef: int | None
    quantized: bool = False

    def write(self, shard: Path) -> None:
        (shard / GRAPH).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, shard: Path) -> Graph | None:
        try:
            noted = json.loads((shard / GRAPH).read_text())
            ef = noted["ef"]
            return cls(int(noted["points"]), None if ef is None else int(ef), bool(noted["quantized"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class GraphSearch:
    """How a search reads the graph, so that its pages are windows into one ranking: see `store.breadths`."""

    ef: int
    quantized: bool = False

    @classmethod
    def of(cls, graph: Graph | None, window: SearchWindow) -> GraphSearch | None:
        """Return how this search reads the graph, None to compare every vector."""
        ef = None if graph is None else window.ef or graph.ef
        return None if graph is None or ef is None or window.exact else cls(ef, graph.quantized)

    def among(self, remaining: int, points: int) -> GraphSearch:
        """Return the search for a filter that leaves `remaining` of `points`: twice as broad where those are few."""
        return replace(self, ef=2 * self.ef) if remaining * _SPARSE < points else self

    def for_all(self, count: int) -> GraphSearch:
        """Return the search that finds so many neighbours at once."""
        return replace(self, ef=max(self.ef, count))

    def breadths(self, count: int) -> Iterator[int]:
        return breadths(self.ef, count)

    def params(self, breadth: int, limit: int) -> qe.SearchParams:
        """Return the parameters of a query for `limit` hits, one of which shows whether equal scores go on."""
        quantization = None
        if self.quantized:
            # The same number of candidates for every limit; the engine takes the least whole number of at least that.
            candidates = max(breadth * _OVERSAMPLING, limit) - 0.5
            quantization = qe.QuantizationSearchParams(rescore=True, oversampling=max(1.0, candidates / limit))
        return qe.SearchParams(hnsw_ef=breadth + 1, quantization=quantization)


EXACT = qe.SearchParams(exact=True, quantization=qe.QuantizationSearchParams(ignore=True))


NO_GRAPH = qe.HnswIndexConfig(m=0, ef_construct=EF_CONSTRUCT, full_scan_threshold=0)


def hnsw_config(threads: int, full_scan_kb: int) -> qe.HnswIndexConfig:
    return qe.HnswIndexConfig(M, EF_CONSTRUCT, full_scan_kb, max_indexing_threads=threads)


def quantization_config(quantization: Quantization) -> qe.ScalarQuantizationConfig | None:
    if quantization == "none":
        return None
    return qe.ScalarQuantizationConfig(qe.ScalarType.Int8, quantile=0.99, memory=qe.Memory.Pinned)


def measured_graph(shard: qe.EdgeShard, layout: Layout, quantized: bool, *, parts: bool = False) -> Graph:
    """Measure the breadth that the shard's graph takes, in processor time: the machine has other work. With `parts`
    there is another of the documents with several, and the same breadth for both."""
    # Their ids are hashes, so the first are a fair sample.
    names = [DENSE, PARTS] if parts else [DENSE]
    sample = shard.scroll(qe.ScrollRequest(limit=2 * _QUERIES, with_payload=False, with_vector=names))[0]
    points = int(shard.info().points_count)
    if not sample:
        return Graph(points, None, quantized)
    vectors = np.stack([unpacked(record.vector).vectors[0] for record in sample])
    kinds = dict(sample_queries(vectors, _QUERIES, np.random.default_rng(0)))
    queries = [[nearest_queries(query, layout, parts) for query in kinds[kind]] for kind in _KINDS]
    exact = [_timed(shard, kind, EXACT) for kind in queries]
    exact_s = sum(took_s for _, took_s in exact)
    for ef in _BREADTHS:
        params = GraphSearch(ef, quantized).params(ef, _HITS)
        walked = [_timed(shard, kind, params) for kind in queries]
        if sum(took_s for _, took_s in walked) >= exact_s:
            break
        if all(_recall(hits, truth) >= TARGET for (hits, _), (truth, _) in zip(walked, exact, strict=True)):
            return Graph(points, ef, quantized)
    return Graph(points, None, quantized)


def nearest_queries(vector: Float32, layout: Layout, parts: bool) -> list[qe.Query]:
    """Return the queries for the nearest points: of those with one vector, and of those with several apart."""
    query = query_of(vector, layout)
    return [qe.Query.Nearest(query), *([qe.Query.Nearest([query], using=PARTS)] if parts else [])]


def _timed(
    shard: qe.EdgeShard, queries: Sequence[Sequence[qe.Query]], params: qe.SearchParams
) -> tuple[list[set[str]], float]:
    began = time.process_time()
    hits = [
        [
            hit
            for search in searches
            for hit in shard.query(qe.QueryRequest(limit=_HITS, query=search, with_payload=False, params=params))
        ]
        for searches in queries
    ]
    took_s = time.process_time() - began
    return [{str(hit.id) for hit in nlargest(_HITS, of_query, key=lambda hit: hit.score)} for of_query in hits], took_s


def _recall(rankings: Sequence[set[str]], truth: Sequence[set[str]]) -> float:
    return sum(len(hits & exact) for hits, exact in zip(rankings, truth, strict=True)) / sum(map(len, truth))
