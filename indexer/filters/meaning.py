"""What a filter means: its evaluation in plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.filters.nodes import (
    AllOf,
    AnyOf,
    AtLeast,
    DateRange,
    Empty,
    Equals,
    Filter,
    FullText,
    GeoBox,
    GeoRadius,
    In,
    Nested,
    Not,
    Range,
    Scalar,
    steps,
    whole_number_beyond_doubles,
)
from indexer.filters.values import is_number, is_place, metres_between, read_moment, words


def matches(condition: Filter, metadata: object) -> bool:
    """The filter evaluated in plain Python: what the stores are tested against.

    A field that holds a list matches if one of its elements does; lists inside that list, and objects inside a list,
    are not looked into except by `Nested`. A field that is absent matches no condition but `Empty`, so `Not` of it holds.
    A bool equals only a bool and a string only a string. Numbers are compared as doubles, 1 equals 1.0; only whole numbers
    from 2**53 on, where doubles run together, equal by their 64-bit integer.
    """
    match condition:
        case AllOf(of):
            return all(matches(each, metadata) for each in of)
        case AnyOf(of):
            return any(matches(each, metadata) for each in of)
        case AtLeast(n, of):
            return sum(matches(each, metadata) for each in of) >= n
        case Not(of):
            return not matches(of, metadata)
        case Nested(field, of):
            value = _value(metadata, field)
            inside = value if isinstance(value, list | tuple) else ()
            return any(isinstance(each, Mapping) and matches(of, each) for each in inside)
        case Empty(field):
            return _value(metadata, field) in (None, [], ())
        case FullText(field, text):
            present = {word for each in elements(metadata, field) if isinstance(each, str) for word in words(each)}
            wanted = set(words(text))
            return bool(wanted) and wanted <= present
        case _:
            return any(_fulfils(condition, element) for element in elements(metadata, condition.field))


def _value(metadata: object, field: str) -> object:
    value = metadata
    for key in steps(field):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def elements(metadata: object, field: str) -> list[object]:
    """What a condition on the field looks at: the elements of a list, or the value by itself; None where it is absent."""
    value = _value(metadata, field)
    return list(value) if isinstance(value, list | tuple) else [value]


def _fulfils(condition: Equals | In | Range | DateRange | GeoRadius | GeoBox, element: object) -> bool:
    match condition:
        case Equals(_, wanted):
            return _equal(element, wanted)
        case In(_, values):
            return any(_equal(element, wanted) for wanted in values)
        case Range():
            return is_number(element) and _within(float(element), condition)
        case DateRange():
            moment = read_moment(element) if isinstance(element, str) else None
            return moment is not None and _within(moment, condition)
        case GeoRadius(_, lat, lon, radius_m):
            return is_place(element) and metres_between(lat, lon, element["lat"], element["lon"]) < radius_m
        case GeoBox(_, top, _, bottom, _):
            return (
                is_place(element)
                and bottom < element["lat"] < top
                and any(west < element["lon"] < east for west, east in condition.spans())
            )


def _equal(element: object, wanted: Scalar) -> bool:
    if isinstance(wanted, bool | str):
        return type(element) is type(wanted) and element == wanted
    if whole_number_beyond_doubles(wanted):
        return type(element) is int and element == wanted
    return is_number(element) and float(element) == float(wanted)


def _within(value: Any, bounds: Range | DateRange) -> bool:
    """`value` is of the bounds' type."""
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
    )
