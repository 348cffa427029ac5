"""The meaning of a filter in plain Python: what decides over a few documents that were read, and what the stores are
tested against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.filters import Filter, Scalar, elements, nodes, whole_number_beyond_doubles
from indexer.filters.metadata import value_at
from indexer.filters.values import is_number, is_place, metres_between, read_moment
from indexer.filters.words import words


def matches(condition: Filter, metadata: object) -> bool:
    """Evaluate the filter in plain Python.

    A field that holds a list matches if one of its elements does; lists inside that list, and objects inside a list,
    are not looked into except by `Nested`. A field that is absent matches no condition but `Empty`, so `Not` of it
    holds. A bool equals only a bool and a string only a string. Numbers are compared as doubles, 1 equals 1.0; only
    whole numbers from 2**53 on, where doubles run together, equal by their 64-bit integer.
    """
    match condition:
        case nodes.AllOf(of):
            return all(matches(part, metadata) for part in of)
        case nodes.AnyOf(of):
            return any(matches(part, metadata) for part in of)
        case nodes.AtLeast(n, of):
            return sum(matches(part, metadata) for part in of) >= n
        case nodes.Not(of):
            return not matches(of, metadata)
        case nodes.Nested(field, of):
            value = value_at(metadata, field)
            inside = value if isinstance(value, list | tuple) else ()
            return any(isinstance(part, Mapping) and matches(of, part) for part in inside)
        case nodes.Empty(field):
            return value_at(metadata, field) in (None, [], ())
        case nodes.FullText(field, text):
            texts = [element for element in elements(metadata, field) if isinstance(element, str)]
            return set(words(text)) <= {word for part in texts for word in words(part)}
        case _:
            return any(_fulfils(condition, element) for element in elements(metadata, condition.field))


def _fulfils(
    condition: nodes.Equals | nodes.In | nodes.Range | nodes.DateRange | nodes.GeoRadius | nodes.GeoBox, element: object
) -> bool:
    match condition:
        case nodes.Equals(_, value):
            return _equal(element, value)
        case nodes.In(_, values):
            return any(_equal(element, value) for value in values)
        case nodes.Range():
            return is_number(element) and _within(float(element), condition)
        case nodes.DateRange():
            moment = read_moment(element) if isinstance(element, str) else None
            return moment is not None and _within(moment, condition)
        case nodes.GeoRadius(_, lat, lon, radius_m):
            return is_place(element) and metres_between(lat, lon, element["lat"], element["lon"]) < radius_m
        case nodes.GeoBox(_, top, _, bottom, _):
            return (
                is_place(element)
                and bottom < element["lat"] < top
                and any(west < element["lon"] < east for west, east in condition.spans())
            )


def _equal(element: object, value: Scalar) -> bool:
    if isinstance(value, bool | str):
        return type(element) is type(value) and element == value
    if whole_number_beyond_doubles(value):
        return type(element) is int and element == value
    return is_number(element) and float(element) == float(value)


def _within(value: Any, bounds: nodes.Range | nodes.DateRange) -> bool:
    """Return whether a value of the bounds' type is within them."""
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
    )
