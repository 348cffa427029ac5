"""Search in Qdrant Edge's terms: the filter tree, and an order that does not change from page to page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import qdrant_edge as qe

from indexer.filters import (
    AllOf,
    AnyOf,
    AtLeast,
    DateRange,
    Empty,
    Equals,
    FieldType,
    Filter,
    FullText,
    GeoBox,
    GeoRadius,
    In,
    Leaf,
    Nested,
    Not,
    Range,
    Scalar,
    tight_bounds,
    whole_number_beyond_doubles,
)
from indexer.filters.values import word_chunks
from indexer.store.edge.slices import Slice
from indexer.store.payload import path_of, relative_path
from indexer.store.ties import in_order, looks, settled

INDEX_KINDS = {
    FieldType.KEYWORD: qe.PayloadSchemaType.Keyword,
    FieldType.NUMBER: qe.PayloadSchemaType.Float,
    FieldType.BOOL: qe.PayloadSchemaType.Bool,
    FieldType.DATETIME: qe.PayloadSchemaType.Datetime,
    FieldType.TEXT: qe.PayloadSchemaType.Text,
    FieldType.GEO: qe.PayloadSchemaType.Geo,
}


def sliced(condition: qe.Filter, part: Slice) -> qe.Filter:
    """Edge looks at `should` before `must`, whatever it thinks of the cost, so no payload of another slice is read."""
    of_slice = qe.SliceCondition(part.total, part.index)  # type: ignore[attr-defined]  # its stubs lack it
    return qe.Filter(should=[of_slice], must=[condition])


def ranked(shard: qe.EdgeShard, wanted: int, **request: Any) -> list[tuple[str, float]]:
    """Ids and scores of the best `wanted` of a query, in the order of `store.ties`."""
    wanted = min(wanted, shard.info().points_count)
    found: list[Any] = []
    for limit in looks(wanted) if wanted else ():
        found = shard.query(qe.QueryRequest(limit=limit, with_payload=False, **request))
        if settled([hit.score for hit in found], wanted, limit):
            break
    return in_order([(str(hit.id), hit.score) for hit in found], wanted)


def to_edge(condition: Filter) -> qe.Filter:
    """The tree in Edge's terms; it selects what `indexer.filters.matches` does."""
    return _filter(condition, path_of)


def _filter(condition: Filter, path: Callable[[str], str]) -> qe.Filter:
    """`path` writes a field: from the payload's root, or from an object in a list."""
    match condition:
        case AllOf(of):
            return qe.Filter(must=[_filter(each, path) for each in of])
        case AnyOf(()):
            return _nothing()  # to Edge, an empty `should` is no condition
        case AnyOf(of):
            return qe.Filter(should=[_filter(each, path) for each in of])
        case AtLeast(n, of):
            return qe.Filter(min_should=qe.MinShould([_filter(each, path) for each in of], n))
        case Not(of):
            return qe.Filter(must_not=[_filter(of, path)])
        case Nested(field, of):
            return qe.Filter(must=[qe.NestedCondition(path(field), _filter(of, relative_path))])
        case _:
            return _leaf(condition, path(condition.field))


def _nothing() -> qe.Filter:
    return qe.Filter(must=[qe.HasIdCondition(set())])


def _leaf(condition: Leaf, path: str) -> qe.Filter:
    match condition:
        case Equals(_, value):
            return qe.Filter(must=[_equals(path, value)])
        case In(_, values):
            return _in(path, values)
        case Range():
            return qe.Filter(must=[qe.FieldCondition(path, range=qe.RangeFloat(**tight_bounds(condition)))])
        case DateRange():
            written = {each: bound.isoformat() for each, bound in tight_bounds(condition).items()}
            return qe.Filter(must=[qe.FieldCondition(path, range=qe.RangeDateTime(**written))])
        case Empty():
            return qe.Filter(must=[qe.IsEmptyCondition(path)])
        case FullText(_, text):
            return qe.Filter(must=[qe.FieldCondition(path, match=qe.MatchText(each)) for each in word_chunks(text)])
        case GeoRadius(_, lat, lon, radius_m):
            return qe.Filter(
                must=[qe.FieldCondition(path, geo_radius=qe.GeoRadius(qe.GeoPoint(lon=lon, lat=lat), radius_m))]
            )
        case GeoBox():
            return _geo_box(path, condition)


def _geo_box(path: str, box: GeoBox) -> qe.Filter:
    corners = [(qe.GeoPoint(west, box.top), qe.GeoPoint(east, box.bottom)) for west, east in box.spans()]
    boxes: list[Any] = [qe.FieldCondition(path, geo_bounding_box=qe.GeoBoundingBox(*each)) for each in corners]
    return qe.Filter(should=boxes) if boxes else _nothing()


def _in(path: str, values: tuple[str, ...] | tuple[int, ...]) -> qe.Filter:
    words = [each for each in values if isinstance(each, str)]
    numbers = [each for each in values if not isinstance(each, str)]
    any_of: list[Any] = [_equals(path, each) for each in numbers]
    if words:  # no index of numbers answers a condition on words, not even on none
        any_of.append(qe.FieldCondition(path, match=qe.MatchAny(words)))
    return qe.Filter(should=any_of) if any_of else _nothing()


def _equals(path: str, value: Scalar) -> qe.FieldCondition:
    if isinstance(value, bool):
        # Edge tries int before bool, and Python's bool is an int: True would match 1. NumPy's is not.
        return qe.FieldCondition(path, match=qe.MatchValue(cast(bool, np.bool_(value))))
    if isinstance(value, str) or whole_number_beyond_doubles(value):
        return qe.FieldCondition(path, match=qe.MatchValue(cast(str | int, value)))
    return qe.FieldCondition(path, range=qe.RangeFloat(gte=float(value), lte=float(value)))
