"""Search in Qdrant Edge's terms: unit vectors, the filter tree, and an order that does not change from page to page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import qdrant_edge as qe

from indexer.filters import AllOf, AnyOf, Equals, Filter, In, Not, Range, Scalar, whole_number_beyond_doubles
from indexer.store.payload import metadata_path
from model.errors import InvalidInput
from model.inputs import Float32

MAX_TIES = 1_000  # points of the same score past the end of a page that are looked at to put them in order


def unit(vector: Float32, dimensions: int, of: str) -> Float32:
    """The vector at length 1, by way of float64 so that no finite input overflows. Edge would store NaN and zero (promise 12)."""
    if vector.shape != (dimensions,):
        raise InvalidInput(
            f"vector of {of} has shape {vector.shape}, the collection's is ({dimensions},)", limit=dimensions
        )
    exact = vector.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    if not np.isfinite(norm) or norm == 0:
        raise InvalidInput(f"vector of {of} has norm {norm}, which must be finite and over 0", value=str(norm))
    return (exact / norm).astype(np.float32)


def ranked(
    shard: qe.EdgeShard, query: list[float], wanted: int, filter_: qe.Filter | None, score_threshold: float | None
) -> list[Any]:
    """The best `wanted` as ScoredPoints, equal scores by document id.

    Edge orders equal scores as it likes and cuts the page anywhere among them, so we look past its end until the score changes.
    """
    wanted = min(wanted, shard.info().points_count)
    if wanted == 0:
        return []
    for beyond in (1, MAX_TIES):
        request = qe.QueryRequest(
            limit=wanted + beyond,
            query=qe.Query.Nearest(query),
            filter=filter_,
            score_threshold=None if score_threshold is None else _just_below(score_threshold),
            with_payload=["document_id"],
        )
        found = shard.query(request)
        if len(found) <= wanted or found[-1].score < found[wanted - 1].score:
            break
    return sorted(found, key=lambda hit: (-hit.score, cast(dict[str, str], hit.payload)["document_id"]))[:wanted]


def _just_below(score_threshold: float) -> float:
    """Edge wants scores over its threshold, ours are at or over it."""
    return float(np.nextafter(np.float32(score_threshold), np.float32("-inf")))


def to_edge(condition: Filter) -> qe.Filter:
    """The tree in Edge's terms; it selects what `indexer.filters.matches` does."""
    match condition:
        case AllOf(of):
            return qe.Filter(must=[to_edge(each) for each in of])
        case AnyOf(()):
            return qe.Filter(must=[qe.HasIdCondition(set())])  # to Edge, an empty `should` is no condition
        case AnyOf(of):
            return qe.Filter(should=[to_edge(each) for each in of])
        case Not(of):
            return qe.Filter(must_not=[to_edge(of)])
        case Equals(field, value):
            return qe.Filter(must=[_equals(metadata_path(field), value)])
        case In(field, values):
            return _in(metadata_path(field), values)
        case Range(field, gt, gte, lt, lte):
            return qe.Filter(
                must=[qe.FieldCondition(metadata_path(field), range=qe.RangeFloat(gt=gt, gte=gte, lt=lt, lte=lte))]
            )


def indexable(condition: Filter) -> Iterator[tuple[str, qe.PayloadSchemaType]]:
    """The fields it looks at and the index that would serve each.

    An index answers the conditions of its kind, and Edge reads the payloads for all others: what is selected never changes.
    Edge's integer index is not among them, it would answer ranges and overlook 2.5.
    """
    match condition:
        case AllOf(of) | AnyOf(of):
            for each in of:
                yield from indexable(each)
        case Not(of):
            yield from indexable(of)
        case Range(field):
            yield field, qe.PayloadSchemaType.Float
        case Equals(field, value):
            yield from _index_for(field, value)
        case In(field, values):
            for first in values[:1]:
                yield from _index_for(field, first)


def _index_for(field: str, value: Scalar) -> Iterator[tuple[str, qe.PayloadSchemaType]]:
    if isinstance(value, bool):
        yield field, qe.PayloadSchemaType.Bool
    elif isinstance(value, str):
        yield field, qe.PayloadSchemaType.Keyword
    elif not whole_number_beyond_doubles(value):
        yield field, qe.PayloadSchemaType.Float


def _in(path: str, values: tuple[str, ...] | tuple[int, ...]) -> qe.Filter:
    words = [each for each in values if isinstance(each, str)]
    numbers = [each for each in values if not isinstance(each, str)]
    any_word = qe.FieldCondition(path, match=qe.MatchAny(words))  # of no word: matches nothing
    return qe.Filter(should=[any_word, *(_equals(path, each) for each in numbers)])


def _equals(path: str, value: Scalar) -> qe.FieldCondition:
    if isinstance(value, bool):
        # Edge tries int before bool, and Python's bool is an int: True would match 1. NumPy's is not.
        return qe.FieldCondition(path, match=qe.MatchValue(cast(bool, np.bool_(value))))
    if isinstance(value, str) or whole_number_beyond_doubles(value):
        return qe.FieldCondition(path, match=qe.MatchValue(cast(str | int, value)))
    return qe.FieldCondition(path, range=qe.RangeFloat(gte=float(value), lte=float(value)))
