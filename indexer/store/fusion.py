"""Fuse the rankings of embeddings and of words into one: by reciprocal ranks or by weighted scores."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.store.base import SearchWindow
from indexer.store.criteria import Criterion, Hybrid, Place, Ranked, ReciprocalRanks, WeightedScores, WordMatch
from indexer.store.ties import in_order


def places(criterion: Criterion, ranked: Ranked) -> list[Place]:
    """Return the places of a ranking by one criterion."""
    if isinstance(criterion, WordMatch):
        return [Place(point, score, score, 1.0) for point, score in ranked]
    return [Place(point, score) for point, score in ranked]


def fuse(hybrid: Hybrid, embedding: Ranked, words: Ranked, window: SearchWindow) -> list[Place]:
    """Return the window of the fused ranking."""
    match hybrid.fusion:
        case ReciprocalRanks(k):
            parts = _reciprocal(embedding, k), _reciprocal(words, k)
        case WeightedScores(weight):
            parts = _weighted(embedding, words, weight)
    from_embedding, from_words = parts
    scores = dict(from_embedding)
    for point, score in from_words.items():
        scores[point] = scores.get(point, 0.0) + score
    bm25 = dict(words)
    return [
        Place(point, score, bm25.get(point), from_words.get(point, 0.0) / score if score else 0.0)
        for point, score in window.cut(in_order(list(scores.items()), window.end))
    ]


def _reciprocal(ranked: Ranked, k: int) -> dict[str, float]:
    """Return 1 / (k + rank) by point, with ranks from 1. Source: Cormack and others, SIGIR 2009."""
    return {point: 1 / (k + rank) for rank, (point, _) in enumerate(ranked, 1)}


def _weighted(embedding: Ranked, words: Ranked, weight: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return (1 - weight) · e and weight · w by point, e and w between 0 and 1: the cosine is scaled between the lowest
    and the best of its ranking, BM25 between 0 and the best of its own. A document that a ranking does not contain
    counts 0 there.
    """
    least = min((score for _, score in embedding), default=0.0)
    e = {point: (1 - weight) * score for point, score in _scaled(embedding, least)}
    w = {point: weight * score for point, score in _scaled(words, 0.0)}
    return e, w


def _scaled(ranked: Ranked, least: float) -> Iterable[tuple[str, float]]:
    top = max((score for _, score in ranked), default=0.0)
    width = top - least
    return ((point, (score - least) / width if width > 0 else 1.0) for point, score in ranked)
