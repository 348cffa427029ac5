"""The filter in a Qdrant server's terms."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from qdrant_client import models as q

from indexer.filters import FieldType, Filter, GeoBox, GeoRadius
from indexer.store.numbers import legible
from indexer.store.translation import translate

INDEX_KINDS = {
    FieldType.KEYWORD: q.PayloadSchemaType.KEYWORD,
    FieldType.NUMBER: q.PayloadSchemaType.FLOAT,
    FieldType.BOOL: q.PayloadSchemaType.BOOL,
    FieldType.DATETIME: q.PayloadSchemaType.DATETIME,
    FieldType.TEXT: q.PayloadSchemaType.TEXT,
    FieldType.GEO: q.PayloadSchemaType.GEO,
}
KINDS = {kind: type_ for type_, kind in INDEX_KINDS.items()}


def to_server(condition: Filter) -> q.Filter:
    """Return the filter in the server's terms."""
    return cast("q.Filter", translate(condition, _Server()))


class _Server:
    """The server's constructors: see `Vocabulary`."""

    def all_of(self, conditions: Sequence[Any]) -> q.Filter:
        return q.Filter(must=list(conditions))

    def any_of(self, conditions: Sequence[Any]) -> q.Filter:
        return q.Filter(should=list(conditions))

    def at_least(self, count: int, conditions: Sequence[Any]) -> q.Filter:
        return q.Filter(min_should=q.MinShould(conditions=list(conditions), min_count=count))

    def none_of(self, conditions: Sequence[Any]) -> q.Filter:
        return q.Filter(must_not=list(conditions))

    def nothing(self) -> q.Filter:
        return q.Filter(must=[q.HasIdCondition(has_id=[])])

    def nested(self, path: str, condition: q.Filter) -> q.NestedCondition:
        return q.NestedCondition(nested=q.Nested(key=path, filter=condition))

    def is_empty(self, path: str) -> q.IsEmptyCondition:
        return q.IsEmptyCondition(is_empty=q.PayloadField(key=path))

    def value(self, path: str, value: str | bool) -> q.FieldCondition:
        return q.FieldCondition(key=path, match=q.MatchValue(value=value))

    def any_text(self, path: str, values: Sequence[str]) -> q.FieldCondition:
        return q.FieldCondition(key=path, match=q.MatchAny(any=list(values)))

    def numbers(self, path: str, bounds: dict[str, float]) -> q.FieldCondition:
        return q.FieldCondition(key=path, range=q.Range(**legible(bounds)))

    def times(self, path: str, bounds: dict[str, datetime]) -> q.FieldCondition:
        return q.FieldCondition(key=path, range=q.DatetimeRange(**bounds))

    def circle(self, path: str, circle: GeoRadius) -> q.FieldCondition:
        centre = q.GeoPoint(lat=circle.lat, lon=circle.lon)
        return q.FieldCondition(key=path, geo_radius=q.GeoRadius(center=centre, radius=circle.radius_m))

    def box(self, path: str, box: GeoBox, west: float, east: float) -> q.FieldCondition:
        corners = q.GeoBoundingBox(
            top_left=q.GeoPoint(lat=box.top, lon=west), bottom_right=q.GeoPoint(lat=box.bottom, lon=east)
        )
        return q.FieldCondition(key=path, geo_bounding_box=corners)
