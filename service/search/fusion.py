"""Fuse several rankings into one: reciprocal ranks or weighted scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from indexer.store.criteria import Ranked


@dataclass(frozen=True, slots=True)
class Fused:
    """One document of two rankings. `words` is its BM25 score, None where no word of the query is in it; `share` is the
    part of `score` that comes from words."""

    point_id: str
    score: float
    words: float | None
    share: float


def reciprocal_ranks(embedding: Ranked, words: Ranked, k: int) -> list[Fused]:
    """Fuse by Σ 1 / (k + rank) over the rankings that contain the document, with ranks from 1. Source: Cormack and
    others, SIGIR 2009."""

    def parts(ranked: Ranked) -> dict[str, float]:
        return {point: 1 / (k + rank) for rank, (point, _) in enumerate(ranked, 1)}

    return _sum(parts(embedding), parts(words), dict(words))


def weighted(embedding: Ranked, words: Ranked, weight: float) -> list[Fused]:
    """Fuse by (1 - weight) · e + weight · w, each between 0 and 1: the cosine is scaled between the lowest and the best
    of its ranking, BM25 between 0 and the best of its own. A document that a ranking does not contain counts 0 there.
    """
    least = min((score for _, score in embedding), default=0.0)
    e = {point: (1 - weight) * score for point, score in _scaled(embedding, least)}
    w = {point: weight * score for point, score in _scaled(words, 0.0)}
    return _sum(e, w, dict(words))


def _scaled(ranked: Ranked, least: float) -> Iterable[tuple[str, float]]:
    best = max((score for _, score in ranked), default=0.0)
    width = best - least
    return ((point, (score - least) / width if width > 0 else 1.0) for point, score in ranked)


def _sum(embedding: dict[str, float], words: dict[str, float], bm25: dict[str, float]) -> list[Fused]:
    fused = []
    for point in embedding | words:
        from_words = words.get(point, 0.0)
        score = embedding.get(point, 0.0) + from_words
        fused.append(Fused(point, score, bm25.get(point), from_words / score if score else 0.0))
    return sorted(fused, key=lambda document: (-document.score, document.point_id))
