"""The wire form of a filter: JSON in, a tree out, or an error that names the place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from indexer.filters.nodes import (
    LAST_LATITUDE,
    LAST_LONGITUDE,
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
)
from indexer.filters.values import is_number, is_rfc3339, read_moment, words
from model.errors import InvalidInput

MAX_DEPTH = 8  # a single condition has depth 1
MAX_CONDITIONS = 100  # nodes of the tree: combinators count
MAX_VALUES = 1_000  # of one `in`
MAX_FIELD_CHARS = 128
MAX_TEXT_CHARS = 4_096  # of one value
INT64 = range(-(2**63), 2**63)  # what Qdrant can compare exactly

_BOUNDS = ("gt", "gte", "lt", "lte")
_FORMS = (
    "one of: field with equals, in, match, exists, empty, geo_radius, geo_box or nested, field with gt/gte/lt/lte, "
    "all, any, not, at_least with of"
)


def parse(value: object) -> Filter:
    """The wire form as a tree. Raises `InvalidInput` naming the place, the value and what is allowed there.

        {"field": F, "equals": V}         V a string, a number or a boolean
        {"field": F, "in": [V, …]}        1 to 1,000 strings, or as many whole numbers
        {"field": F, "gte": N, …}         one or more of gt, gte, lt, lte; all numbers, or all RFC 3339 times
        {"field": F, "match": "words"}    full text
        {"field": F, "exists": B}         B a boolean; so with "empty"
        {"field": F, "geo_radius": {"lat": N, "lon": N, "radius_m": N}}
        {"field": F, "geo_box": {"top_left": {"lat": N, "lon": N}, "bottom_right": {"lat": N, "lon": N}}}
        {"field": F, "nested": filter}    over the objects in a list
        {"all": [filter, …]}  {"any": [filter, …]}  {"not": filter}  {"at_least": 2, "of": [filter, …]}

    F is a key of the metadata, or keys joined by dots. At most 8 levels and 100 conditions.
    """
    return _Parser().condition(value, "filter", 1)


class _Parser:
    def __init__(self) -> None:
        self._conditions = 0

    def condition(self, value: object, at: str, depth: int) -> Filter:
        self._conditions += 1
        if depth > MAX_DEPTH:
            raise _invalid(at, "is nested too deep", depth, MAX_DEPTH)
        if self._conditions > MAX_CONDITIONS:
            raise _invalid(at, "is one condition too many", self._conditions, MAX_CONDITIONS)
        if not isinstance(value, Mapping):
            raise _invalid(at, "is not an object", value, _FORMS)
        keys = set(value)
        if keys == {"all"}:
            return AllOf(self._several(value["all"], f"{at}.all", depth))
        if keys == {"any"}:
            return AnyOf(self._several(value["any"], f"{at}.any", depth))
        if keys == {"at_least", "of"}:
            of = self._several(value["of"], f"{at}.of", depth)
            return AtLeast(_at_least(value["at_least"], len(of), f"{at}.at_least"), of)
        if keys == {"not"}:
            return Not(self.condition(value["not"], f"{at}.not", depth + 1))
        if keys == {"field", "nested"}:
            return Nested(_field(value["field"], at), self.condition(value["nested"], f"{at}.nested", depth + 1))
        return _leaf(value, keys, at)

    def _several(self, value: object, at: str, depth: int) -> tuple[Filter, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise _invalid(at, "is not a list with at least one filter", value, f"1 to {MAX_CONDITIONS} filters")
        return tuple(self.condition(each, f"{at}[{i}]", depth + 1) for i, each in enumerate(value))


def _at_least(value: object, most: int, at: str) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise _invalid(at, "is not a number of the filters in `of`", value, f"1 to {most}")
    return value


def _leaf(value: Mapping[Any, Any], keys: set[Any], at: str) -> Filter:
    if len(keys) == 2 and "field" in keys:
        (operator,) = keys - {"field"}
        if operator in _OPERATORS:
            return _OPERATORS[operator](_field(value["field"], at), value[operator], f"{at}.{operator}")
    if len(keys) > 1 and keys <= {"field", *_BOUNDS} and "field" in keys:
        return _range(_field(value["field"], at), {key: value[key] for key in _BOUNDS if key in keys}, at)
    raise _invalid(at, f"has the keys {_some(keys)}", value, _FORMS)


def _exists(field: str, value: object, at: str) -> Filter:
    return Not(Empty(field)) if _boolean(value, at) else Empty(field)


def _empty(field: str, value: object, at: str) -> Filter:
    return Empty(field) if _boolean(value, at) else Not(Empty(field))


def _full_text(field: str, value: object, at: str) -> Filter:
    if not isinstance(value, str):
        raise _invalid(at, "is not a string", value, "text with at least one letter or digit")
    if not words(_text(value, at)):
        raise _invalid(at, "has no word", value, "text with at least one letter or digit")
    return FullText(field, value)


def _geo_radius(field: str, value: object, at: str) -> Filter:
    lat, lon, radius_m = _members(value, ("lat", "lon", "radius_m"), at)
    radius = _bound(radius_m, f"{at}.radius_m")
    if radius <= 0:
        raise _invalid(f"{at}.radius_m", "is not over 0", radius_m, "metres over 0")
    return GeoRadius(field, _degrees(lat, 90, f"{at}.lat"), _degrees(lon, 180, f"{at}.lon"), radius)


def _geo_box(field: str, value: object, at: str) -> Filter:
    corners = dict(zip(("top_left", "bottom_right"), _members(value, ("top_left", "bottom_right"), at), strict=True))
    (top, left), (bottom, right) = (_corner(corner, f"{at}.{name}") for name, corner in corners.items())
    if top <= bottom:
        raise _invalid(f"{at}.top_left.lat", "is not over bottom_right.lat", top, f"over {bottom}")
    return GeoBox(field, top, left, bottom, right)


def _corner(value: object, at: str) -> tuple[float, float]:
    lat, lon = _members(value, ("lat", "lon"), at)
    return (
        max(-LAST_LATITUDE, min(LAST_LATITUDE, _degrees(lat, 90, f"{at}.lat"))),
        max(-LAST_LONGITUDE, min(LAST_LONGITUDE, _degrees(lon, 180, f"{at}.lon"))),
    )


def _members(value: object, names: tuple[str, ...], at: str) -> list[object]:
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise _invalid(at, "is not an object of the right keys", value, f"the keys {', '.join(names)}")
    return [value[name] for name in names]


def _degrees(value: object, limit: int, at: str) -> float:
    degrees = _bound(value, at)
    if abs(degrees) > limit:
        raise _invalid(at, "is out of range", value, f"-{limit} to {limit} degrees")
    return degrees


def _boolean(value: object, at: str) -> bool:
    if not isinstance(value, bool):
        raise _invalid(at, "is not a boolean", value, "true or false")
    return value


def _range(field: str, bounds: Mapping[str, object], at: str) -> Filter:
    if any(isinstance(each, str) for each in bounds.values()):
        return DateRange(field, **{key: _moment(value, f"{at}.{key}") for key, value in bounds.items()})
    return Range(field, **{key: _bound(value, f"{at}.{key}") for key, value in bounds.items()})


def _moment(value: object, at: str) -> datetime:
    moment = read_moment(value) if isinstance(value, str) and is_rfc3339(value) else None
    if moment is None:
        raise _invalid(at, "is not a time", value, "RFC 3339, as 2024-05-01T12:00:00Z, or numbers for all bounds")
    return moment


def _field(value: object, at: str) -> str:
    return check_field(value, f"{at}.field")


def check_field(value: object, at: str) -> str:
    """The name of a metadata field that a store can look up. Raises `InvalidInput`."""
    if not isinstance(value, str):
        raise _invalid(at, "is not a string", value, "string")
    if not all(steps(value)):
        raise _invalid(at, "is empty or has an empty part", value, "1 or more characters between dots")
    if len(value) > MAX_FIELD_CHARS:
        raise _invalid(at, f"has {len(value)} characters", value, MAX_FIELD_CHARS)
    if '"' in value or "\\" in value:
        raise _invalid(at, 'holds " or \\, which no store can look up', value, 'any character but " and \\')
    return _text(value, at)


def _equals(field: str, value: object, at: str) -> Filter:
    return Equals(field, _scalar(value, at))


def _in(field: str, value: object, at: str) -> Filter:
    return In(field, _values(value, at))


def _scalar(value: object, at: str) -> Scalar:
    match value:
        case bool():
            return value
        case str():
            return _text(value, at)
        case int() if value in INT64:
            return value
        case float() if math.isfinite(value):
            return value
    raise _invalid(at, "is not usable here", value, "string, boolean, finite number or 64-bit whole number")


def _values(value: object, at: str) -> tuple[str, ...] | tuple[int, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_VALUES:
        raise _invalid(at, "is not a list of the allowed length", value, f"1 to {MAX_VALUES} values")
    if all(isinstance(each, str) for each in value):
        return tuple(_text(each, f"{at}[{i}]") for i, each in enumerate(value))
    for i, each in enumerate(value):
        if type(each) is not int or each not in INT64:
            raise _invalid(f"{at}[{i}]", "is not usable here", each, "strings only, or 64-bit whole numbers only")
    return tuple(value)


def _bound(value: object, at: str) -> float:
    if not is_number(value):
        raise _invalid(at, "is not a number", value, "finite number")
    try:
        bound = float(value)
    except OverflowError as error:
        raise _invalid(at, "is too large a number", None, "finite number") from error
    if not math.isfinite(bound):
        raise _invalid(at, "is not finite", str(value), "finite number")
    return bound


def _text(value: str, at: str) -> str:
    if len(value) > MAX_TEXT_CHARS:
        raise _invalid(at, f"has {len(value)} characters", None, MAX_TEXT_CHARS)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _invalid(at, "is not valid Unicode", ascii(value), "text without lone surrogates") from error
    return value


def _invalid(at: str, problem: str, value: object, limit: object) -> InvalidInput:
    return InvalidInput(f"{at} {problem}, allowed: {limit}", field=at, value=_shown(value), limit=limit)


def _some(keys: set[Any]) -> str:
    """Name a few keys of a filter that has too many or the wrong ones."""
    first = (
        ", ".join(f"{key!s:.60}" for key in islice(keys, 5))
        if len(keys) > 5
        else ", ".join(sorted(f"{key!s:.60}" for key in keys))
    )
    return f"{first} and {len(keys) - 5} more" if len(keys) > 5 else first


def _shown(value: object) -> object:
    """The value for the error: as it is when small and writable as JSON, else cut short."""
    if isinstance(value, Mapping | list) and len(value) > 50:
        return f"{len(value)} values"
    if isinstance(value, str):
        return value if len(value) <= 200 else value[:200] + "…"
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return ascii(type(value).__name__) if not isinstance(value, float) else str(value)
    return value if len(text) <= 200 else text[:200] + "…"


_OPERATORS: dict[Any, Callable[[str, object, str], Filter]] = {
    "equals": _equals,
    "in": _in,
    "match": _full_text,
    "exists": _exists,
    "empty": _empty,
    "geo_radius": _geo_radius,
    "geo_box": _geo_box,
}
