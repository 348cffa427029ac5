"""Search in Qdrant Edge's terms: the filter tree, and an order that does not change from page to page."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import numpy as np
import qdrant_edge as qe

from indexer.filters import FieldType, Filter, GeoBox, GeoRadius
from indexer.store.edge.graph import GraphSearch
from indexer.store.edge.slices import Slice
from indexer.store.ties import in_order, is_complete, query_limits
from indexer.store.translation import translate

INDEX_KINDS = {
    FieldType.KEYWORD: qe.PayloadSchemaType.Keyword,
    FieldType.NUMBER: qe.PayloadSchemaType.Float,
    FieldType.BOOL: qe.PayloadSchemaType.Bool,
    FieldType.DATETIME: qe.PayloadSchemaType.Datetime,
    FieldType.TEXT: qe.PayloadSchemaType.Text,
    FieldType.GEO: qe.PayloadSchemaType.Geo,
}


def field_type(data_type: object) -> FieldType | None:
    """Return our type of an index of the engine."""
    return next((kind for kind, index_kind in INDEX_KINDS.items() if index_kind == data_type), None)


def sliced(condition: qe.Filter, part: Slice) -> qe.Filter:
    """Restrict a condition to a slice of the points. Edge evaluates `should` before `must`, whatever their cost, so it
    reads no payload of another slice."""
    of_slice = qe.SliceCondition(part.total, part.index)  # type: ignore[attr-defined]  # its stubs lack it
    return qe.Filter(should=[of_slice], must=[condition])


def ranked(
    shard: qe.EdgeShard,
    count: int,
    spare: int = 1,
    graph: GraphSearch | None = None,
    *,
    queries: Sequence[Any],
    **request: Any,
) -> list[tuple[str, float]]:
    """Return ids and scores of the best `count` hits of queries, each of which finds other points. In the order of
    `store.ties`, or that of `store.breadths` where they come through a graph."""
    count = min(count, shard.info().points_count)

    def best(size: int, breadth: int) -> list[tuple[str, float]]:
        hits = [_ranked(shard, size, spare, graph, breadth, {**request, "query": query}) for query in queries]
        return hits[0] if len(hits) == 1 else in_order([hit for part in hits for hit in part], size)

    if graph is None:
        return best(count, 0)
    walked: dict[str, float] = {}
    for breadth in graph.breadths(count):
        size = min(breadth, count)
        hits = best(size, breadth)
        # A hit of both keeps its place.
        walked |= dict(hits)
        if len(hits) < size:
            break
    return list(walked.items())[:count]


def _ranked(
    shard: qe.EdgeShard,
    count: int,
    spare: int,
    graph: GraphSearch | None,
    breadth: int,
    request: Mapping[str, Any],
) -> list[tuple[str, float]]:
    hits: list[Any] = []
    scores: list[float] = []
    for limit in query_limits(count, spare) if count else ():
        params: dict[str, Any] = {} if graph is None else {"params": graph.params(breadth, limit)}
        hits = shard.query(qe.QueryRequest(limit=limit, with_payload=False, **request, **params))
        scores = [hit.score for hit in hits]
        if is_complete(scores, count, limit):
            break
    # An id takes 1.2 us to read, so only those that may be chosen are read.
    chosen = bisect_right(scores, -scores[count - 1], key=operator.neg) if len(scores) > count else len(scores)
    return in_order([(str(hit.id), score) for hit, score in zip(hits[:chosen], scores, strict=False)], count)


def to_edge(condition: Filter) -> qe.Filter:
    """Return the filter in Edge's terms."""
    return cast("qe.Filter", translate(condition, _Edge()))


class _Edge:
    """Edge's constructors: see `Vocabulary`."""

    def all_of(self, conditions: Sequence[Any]) -> qe.Filter:
        return qe.Filter(must=list(conditions))

    def any_of(self, conditions: Sequence[Any]) -> qe.Filter:
        return qe.Filter(should=list(conditions))

    def at_least(self, count: int, conditions: Sequence[Any]) -> qe.Filter:
        return qe.Filter(min_should=qe.MinShould(list(conditions), count))

    def none_of(self, conditions: Sequence[Any]) -> qe.Filter:
        return qe.Filter(must_not=list(conditions))

    def nothing(self) -> qe.Filter:
        return qe.Filter(must=[qe.HasIdCondition(set())])

    def nested(self, path: str, condition: qe.Filter) -> qe.NestedCondition:
        return qe.NestedCondition(path, condition)

    def is_empty(self, path: str) -> qe.IsEmptyCondition:
        return qe.IsEmptyCondition(path)

    def value(self, path: str, value: str | bool) -> qe.FieldCondition:
        # Edge tries int before bool, and Python's bool is an int: True would match 1. NumPy's is not.
        matched = cast(bool, np.bool_(value)) if isinstance(value, bool) else value
        return qe.FieldCondition(path, match=qe.MatchValue(matched))

    def any_text(self, path: str, values: Sequence[str]) -> qe.FieldCondition:
        return qe.FieldCondition(path, match=qe.MatchAny(list(values)))

    def numbers(self, path: str, bounds: dict[str, float]) -> qe.FieldCondition:
        return qe.FieldCondition(path, range=qe.RangeFloat(**bounds))

    def times(self, path: str, bounds: dict[str, datetime]) -> qe.FieldCondition:
        written = {name: bound.isoformat() for name, bound in bounds.items()}
        return qe.FieldCondition(path, range=qe.RangeDateTime(**written))

    def circle(self, path: str, circle: GeoRadius) -> qe.FieldCondition:
        centre = qe.GeoPoint(lon=circle.lon, lat=circle.lat)
        return qe.FieldCondition(path, geo_radius=qe.GeoRadius(centre, circle.radius_m))

    def box(self, path: str, box: GeoBox, west: float, east: float) -> qe.FieldCondition:
        corners = qe.GeoPoint(west, box.top), qe.GeoPoint(east, box.bottom)
        return qe.FieldCondition(path, geo_bounding_box=qe.GeoBoundingBox(*corners))
