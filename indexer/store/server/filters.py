"""The filter tree in a Qdrant server's terms; it selects what `indexer.filters.matches` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdrant_client import models as q

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
from indexer.store.payload import path_of, relative_path

INDEX_KINDS = {
    FieldType.KEYWORD: q.PayloadSchemaType.KEYWORD,
    FieldType.NUMBER: q.PayloadSchemaType.FLOAT,
    FieldType.BOOL: q.PayloadSchemaType.BOOL,
    FieldType.DATETIME: q.PayloadSchemaType.DATETIME,
    FieldType.TEXT: q.PayloadSchemaType.TEXT,
    FieldType.GEO: q.PayloadSchemaType.GEO,
}
# Indexes that someone else made, by what they get wrong: see `store.indexes`.
KINDS = {kind: type_ for type_, kind in INDEX_KINDS.items()} | {
    q.PayloadSchemaType.INTEGER: FieldType.NUMBER,
    q.PayloadSchemaType.UUID: FieldType.KEYWORD,
}


def to_server(condition: Filter) -> q.Filter:
    return _filter(condition, path_of)


def _filter(condition: Filter, path: Callable[[str], str]) -> q.Filter:
    """`path` writes a field: from the payload's root, or from an object in a list."""
    match condition:
        case AllOf(of):
            return q.Filter(must=[_filter(each, path) for each in of])
        case AnyOf(()):
            return _nothing()  # to Qdrant, an empty `should` is no condition
        case AnyOf(of):
            return q.Filter(should=[_filter(each, path) for each in of])
        case AtLeast(n, of):
            return q.Filter(min_should=q.MinShould(conditions=[_filter(each, path) for each in of], min_count=n))
        case Not(of):
            return q.Filter(must_not=[_filter(of, path)])
        case Nested(field, of):
            nested = q.Nested(key=path(field), filter=_filter(of, relative_path))
            return q.Filter(must=[q.NestedCondition(nested=nested)])
        case _:
            return _leaf(condition, path(condition.field))


def _nothing() -> q.Filter:
    return q.Filter(must=[q.HasIdCondition(has_id=[])])


def _leaf(condition: Leaf, path: str) -> q.Filter:
    match condition:
        case Equals(_, value):
            return q.Filter(must=[_equals(path, value)])
        case In(_, values):
            return _in(path, values)
        case Range():
            return q.Filter(must=[q.FieldCondition(key=path, range=q.Range(**tight_bounds(condition)))])
        case DateRange():
            return q.Filter(must=[q.FieldCondition(key=path, range=q.DatetimeRange(**tight_bounds(condition)))])
        case Empty():
            return q.Filter(must=[q.IsEmptyCondition(is_empty=q.PayloadField(key=path))])
        case FullText(_, text):
            return q.Filter(
                must=[q.FieldCondition(key=path, match=q.MatchText(text=each)) for each in word_chunks(text)]
            )
        case GeoRadius(_, lat, lon, radius_m):
            circle = q.GeoRadius(center=q.GeoPoint(lat=lat, lon=lon), radius=radius_m)
            return q.Filter(must=[q.FieldCondition(key=path, geo_radius=circle)])
        case GeoBox():
            return _geo_box(path, condition)


def _geo_box(path: str, box: GeoBox) -> q.Filter:
    boxes: list[Any] = [
        q.FieldCondition(
            key=path,
            geo_bounding_box=q.GeoBoundingBox(
                top_left=q.GeoPoint(lat=box.top, lon=west), bottom_right=q.GeoPoint(lat=box.bottom, lon=east)
            ),
        )
        for west, east in box.spans()
    ]
    return q.Filter(should=boxes) if boxes else _nothing()


def _in(path: str, values: tuple[str, ...] | tuple[int, ...]) -> q.Filter:
    words = [each for each in values if isinstance(each, str)]
    any_of: list[Any] = [_equals(path, each) for each in values if not isinstance(each, str)]
    if words:
        any_of.append(q.FieldCondition(key=path, match=q.MatchAny(any=words)))
    return q.Filter(should=any_of) if any_of else _nothing()


def _equals(path: str, value: Scalar) -> q.FieldCondition:
    """A number as a range: a match is of integers, and 1.0 or 2.5 in a payload is none."""
    if isinstance(value, bool | str) or whole_number_beyond_doubles(value):
        return q.FieldCondition(key=path, match=q.MatchValue(value=value))  # type: ignore[arg-type]
    return q.FieldCondition(key=path, range=q.Range(gte=float(value), lte=float(value)))
