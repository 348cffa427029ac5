"""Examples of what is sought and of what is not: their vectors, and the one vector that is searched with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model.types import Float32
from service.schemas.search import ExampleIn, QueryIn


def average(positive: Sequence[Float32], negative: Sequence[Float32]) -> Float32:
    """mean(positive), or with negatives 2 * mean(positive) - mean(negative): Qdrant's average-vector strategy. Each (D,)."""
    if len(positive) == 1 and not negative:
        return positive[0]
    mean: Float32 = np.mean(positive, axis=0)
    if not negative:
        return mean
    away: Float32 = np.mean(negative, axis=0)
    return mean + (mean - away)


def to_encode(query: QueryIn) -> list[ExampleIn]:
    """What has text or an image, the query's own first."""
    own = [ExampleIn(text=query.text, image=query.image)] if query.text or query.image is not None else []
    return own + [one for one in (*query.positive, *query.negative) if isinstance(one, ExampleIn)]


def document_ids(query: QueryIn) -> list[str]:
    """The documents that the query names, each once."""
    own = [] if query.document_id is None else [query.document_id]
    return list(dict.fromkeys(own + [one for one in (*query.positive, *query.negative) if isinstance(one, str)]))


def vector_of(query: QueryIn, encoded: Sequence[Float32], stored: dict[str, Float32]) -> Float32:
    """`encoded` are the vectors of `to_encode`, `stored` those of `document_ids`."""
    vectors = iter(encoded)
    positive = [next(vectors)] if query.text or query.image is not None else []
    if query.document_id is not None:
        positive.append(stored[query.document_id])
    positive += _vectors(query.positive, vectors, stored)
    return average(positive, list(_vectors(query.negative, vectors, stored)))


def _vectors(
    examples: Sequence[str | ExampleIn], encoded: Iterator[Float32], stored: dict[str, Float32]
) -> Iterator[Float32]:
    for example in examples:
        yield stored[example] if isinstance(example, str) else next(encoded)
