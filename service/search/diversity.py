"""A ranking whose first documents are chosen for being near the query and unlike each other: maximal marginal
relevance.

Source: Carbonell and Goldstein, SIGIR 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from indexer.domain.documents import point_id
from indexer.domain.points import Hit
from indexer.filters import Filter
from indexer.store.base import Points
from indexer.store.criteria import Place
from model.types import Float32
from service.search.clock import Clock
from service.search.paging import Ranking

# The first documents of the ranking, which are put in another order; those behind them keep theirs.
CANDIDATES = 200


@dataclass(slots=True)
class DiverseRanking:
    """A `paging.Ranking`. For one search; scores stay as they are."""

    ranking: Ranking
    points: Points
    diversity: float
    clock: Clock
    _first: list[Place] | None = field(default=None, repr=False)
    _closest: dict[str, float] = field(default_factory=dict, repr=False)

    async def window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> list[Hit]:
        return await self.read(await self.places(offset, limit))

    async def places(self, offset: int, limit: int) -> Sequence[Place]:
        if self._first is None:
            self._first = await self._choose(await self.ranking.places(0, CANDIDATES))
        first, behind = self._first[offset : offset + limit], offset + limit - CANDIDATES
        if behind <= 0:
            return first
        return [*first, *await self.ranking.places(max(offset, CANDIDATES), min(behind, limit))]

    async def read(self, places: Sequence[Place]) -> list[Hit]:
        hits = await self.ranking.read(places)
        return [replace(hit, closest=self._closest.get(point_id(hit.document_id))) for hit in hits]

    async def _choose(self, places: Sequence[Place]) -> list[Place]:
        with self.clock.in_store():
            rows = await self.points.columns.rows([place.point_id for place in places], (), with_vectors=True)
        vectors = {row.point_id: row.vector for row in rows if row.vector is not None}
        present = [place for place in places if place.point_id in vectors]
        if not present:
            return []
        scores = np.array([place.score for place in present])
        order, closest = chosen(scores, np.stack([vectors[place.point_id] for place in present]), self.diversity)
        for place, similarity in zip(order[1:], closest[1:], strict=True):
            self._closest[present[place].point_id] = similarity
        return [present[place] for place in order]


def chosen(scores: np.ndarray, vectors: Float32, diversity: float) -> tuple[list[int], list[float]]:
    """Return the order of documents, best first, and the greatest cosine of each with one before it.

    Each step takes the document with most of (1 - diversity) · relevance - diversity · that cosine; the relevance is
    the score (N,), scaled so that the best is 1 and the last 0. Vectors are (N, D), of unit length.
    """
    width = scores.max() - scores.min()
    relevance = (scores - scores.min()) / width if width > 0 else np.ones_like(scores)
    cosines = vectors @ vectors.T
    closest = np.full(len(scores), -1.0)
    taken = np.zeros(len(scores), bool)
    order: list[int] = []
    similarities: list[float] = []
    for _ in range(len(scores)):
        # Nothing is before the first, and then all are equally unlike it.
        marginal = (1 - diversity) * relevance - diversity * closest
        marginal[taken] = -np.inf
        best = int(marginal.argmax())
        order.append(best)
        similarities.append(float(closest[best]))
        taken[best] = True
        closest = np.maximum(closest, cosines[best])
    return order, similarities
