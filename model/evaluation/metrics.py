"""Recall@K and Pseudo-Recall@K as M2KR and M-BEIR define them: a query is a hit or it is not, and hits are averaged. No
torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """Shares by k over `queries` queries and a pool of `candidates`; `pseudo` where the set has answers.

    `unanswerable` queries have no right candidate in the pool. They count, as in the published figures, and can only
    miss.
    """

    queries: int
    candidates: int
    recall: Mapping[int, float]
    pseudo: Mapping[int, float]
    unanswerable: int


def recall_at(
    ranked: Sequence[Sequence[str]], positives: Sequence[Collection[str]], ks: Sequence[int]
) -> tuple[float, ...]:
    """Return, for each k, the share of queries with any right id among the first k. `ranked` is ordered best first."""
    ranks = [_first(document_id in right for document_id in ids) for ids, right in zip(ranked, positives, strict=True)]
    return _share_within(ranks, ks)


def pseudo_recall_at(
    texts: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], ks: Sequence[int]
) -> tuple[float, ...]:
    """Return, for each k, the share of queries with any answer inside the text of one of the first k passages.

    Answers are stripped and lower-cased, passages lower-cased. An empty answer occurs in every text, so it does not
    count.
    """
    ranks = []
    for passages, strings in zip(texts, answers, strict=True):
        sought = [answer for string in strings if (answer := string.strip().lower())]
        ranks.append(_first(any(answer in text.lower() for answer in sought) for text in passages))
    return _share_within(ranks, ks)


def mean(values: Sequence[float]) -> float:
    """Return the unweighted mean, as M-BEIR averages its tasks: a task of 2,000 queries counts as much as one of
    50,000."""
    return sum(values) / len(values)


def _first(hits: Iterable[bool]) -> int | None:
    """Return how many results stand before the first hit, or None if there is no hit."""
    return next((place for place, hit in enumerate(hits) if hit), None)


def _share_within(ranks: Sequence[int | None], ks: Sequence[int]) -> tuple[float, ...]:
    if not ranks:
        raise ValueError("recall of no queries")
    return tuple(sum(rank is not None and rank < k for rank in ranks) / len(ranks) for k in ks)
