"""How much of the true nearest a search through a graph finds: measured against an exact search of the same queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.store.base import Points, SearchWindow
from indexer.store.criteria import Nearest
from model.errors import InvalidInput
from model.types import Float32

BREADTHS = (32, 64, 128, 256, 512, 1_024, 2_048, 4_096)


@dataclass(frozen=True, slots=True)
class Recall:
    """The recall of one kind of query, by `ef`: 1 where every search found all that the exact search found."""

    kind: str
    queries: int
    by_ef: dict[int, float]

    def least_ef(self, target: float) -> int | None:
        """Return the least `ef` from which on the recall is at least `target`, or None."""
        reached = None
        for ef, recall in sorted(self.by_ef.items(), reverse=True):
            if recall < target:
                break
            reached = ef
        return reached


async def measure_recall(points: Points, *, queries: int = 50, hits: int = 10, seed: int = 0) -> list[Recall]:
    """Measure with three kinds of query, from easy to hard: near a document, between two documents, and in a random
    direction. Raises `InvalidInput` for a collection without documents.
    """
    page = await points.page(None, 2 * queries)
    vectors = [point.vector for point in await points.fetch(page.document_ids) if point is not None]
    if not vectors:
        raise InvalidInput("the collection has no documents to measure with")
    measured = []
    for kind, of_kind in sample_queries(np.stack(vectors), queries, np.random.default_rng(seed)):
        truth = [await _ids(points, query, SearchWindow(hits, exact=True)) for query in of_kind]
        by_ef = {}
        for ef in BREADTHS:
            rankings = [await _ids(points, query, SearchWindow(hits, ef=ef)) for query in of_kind]
            by_ef[ef] = _mean_recall(rankings, truth)
        measured.append(Recall(kind, len(of_kind), by_ef))
    return measured


def sample_queries(vectors: Float32, count: int, random: np.random.Generator) -> Iterator[tuple[str, list[Float32]]]:
    """Yield three kinds of query, from easy to hard, made of the vectors (N, D) of a sample."""
    n, dimensions = vectors.shape
    firsts, seconds = vectors[random.integers(n, size=count)], vectors[random.integers(n, size=count)]
    noise = random.standard_normal((count, dimensions)).astype(np.float32) / np.float32(np.sqrt(dimensions))
    yield "near a document", list(firsts + np.float32(0.1) * noise)
    # Opposite documents would have no direction between them.
    yield "between two documents", list(firsts + seconds + np.float32(1e-3) * noise)
    yield "in a random direction", list(noise)


async def _ids(points: Points, query: Float32, window: SearchWindow) -> set[str]:
    return {hit.document_id for hit in await points.search(Nearest(query), replace(window, consistency="one"))}


def _mean_recall(rankings: Sequence[set[str]], truth: Sequence[set[str]]) -> float:
    return float(np.mean([len(hits & exact) / max(1, len(exact)) for hits, exact in zip(rankings, truth, strict=True)]))
