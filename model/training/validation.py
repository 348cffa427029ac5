"""How well queries find their documents: recall, and a loss that tells apart what recall does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

KS = (1, 5, 10)
_BLOCK = 1024  # queries scored at once
_SCALE = 20.0  # of cosines: a temperature of 0.05


def validation_loss(
    vectors: Tensor, documents: Tensor, labels: Sequence[str], answers: Sequence[Collection[str]]
) -> float:
    """Return the mean over queries (Q, E) of minus the log of the share that right answers have in the softmax over
    documents (M, E).

    The temperature is fixed, so that steps can be compared; the learnt one changes.
    """
    by_label: dict[str, list[int]] = {}
    for place, names in enumerate(answers):
        for label in names:
            by_label.setdefault(label, []).append(place)
    total = 0.0
    for start in range(0, len(vectors), _BLOCK):
        logits = (vectors[start : start + _BLOCK] @ documents.T).float() * _SCALE
        shares = logits.log_softmax(dim=1)  # (block, M)
        for row, label in enumerate(labels[start : start + _BLOCK]):
            total -= float(shares[row, by_label[label]].logsumexp(dim=0))
    return total / len(vectors)


def hits(
    vectors: Tensor, documents: Tensor, labels: Sequence[str], answers: Sequence[Collection[str]]
) -> dict[int, float]:
    """Return Recall@k of queries (Q, E) over documents (M, E): for each of `KS`, the share of queries with a right
    document among the first k."""
    hit_counts = dict.fromkeys(KS, 0)
    for start in range(0, len(vectors), _BLOCK):
        best = (vectors[start : start + _BLOCK] @ documents.T).topk(min(max(KS), len(documents)), dim=1).indices
        for label, places in zip(labels[start : start + _BLOCK], best.tolist(), strict=True):
            rank = next((rank for rank, place in enumerate(places) if label in answers[place]), max(KS))
            for k in KS:
                hit_counts[k] += rank < k
    return {k: count / len(vectors) for k, count in hit_counts.items()}
