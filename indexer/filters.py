"""Filters over metadata as a small tree that every store translates. The wire form is in `parse`, the meaning in `matches`.

{"field": "region", "equals": "Europe"}          {"field": "area_km2", "gte": 1000, "lt": 50000}
{"field": "region", "in": ["Europe", "Asia"]}    {"all": [..]}   {"any": [..]}   {"not": {..}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from model.errors import InvalidInput

Scalar = str | int | float | bool

MAX_DEPTH = 8  # a single condition has depth 1
MAX_CONDITIONS = 100  # nodes of the tree: combinators count
MAX_VALUES = 1_000  # of one `in`
MAX_FIELD_CHARS = 128
MAX_TEXT_CHARS = 4_096  # of one value
INT64 = range(-(2**63), 2**63)  # what Qdrant can compare exactly
EXACT_DOUBLE = 2**53  # below it, two whole numbers are equal exactly when they are equal as doubles


@dataclass(frozen=True, slots=True)
class Equals:
    field: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    field: str
    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class AllOf:
    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    of: Filter


Filter = Equals | In | Range | AllOf | AnyOf | Not


def steps(field: str) -> list[str]:
    """The keys that lead to a field: `author.name` is the key `name` of the object under `author`."""
    return field.split(".")


def whole_number_beyond_doubles(value: Scalar) -> bool:
    """True where a number has to be compared as a 64-bit integer, because several share one double."""
    return type(value) is int and abs(value) >= EXACT_DOUBLE


# ---------------------------------------------------------------------------------------------------------- meaning


def matches(condition: Filter, metadata: object) -> bool:
    """The filter evaluated in plain Python: what the stores are tested against.

    A field that holds a list matches if one of its elements does; lists inside that list, and objects inside a list,
    are not looked into. A field that is absent matches no condition, so `Not` of it holds. A bool equals only a bool and
    a string only a string. Numbers are compared as doubles, 1 equals 1.0; only whole numbers from 2**53 on, where doubles
    run together, equal by their 64-bit integer.
    """
    match condition:
        case AllOf(of):
            return all(matches(each, metadata) for each in of)
        case AnyOf(of):
            return any(matches(each, metadata) for each in of)
        case Not(of):
            return not matches(of, metadata)
        case Equals(field, wanted):
            return any(_equal(element, wanted) for element in _elements(metadata, field))
        case In(field, values):
            return any(_equal(element, wanted) for element in _elements(metadata, field) for wanted in values)
        case Range(field):
            return any(_within(element, condition) for element in _elements(metadata, field))


def _elements(metadata: object, field: str) -> list[object]:
    value = metadata
    for key in steps(field):
        if not isinstance(value, Mapping) or key not in value:
            return []
        value = value[key]
    return list(value) if isinstance(value, list | tuple) else [value]


def _equal(element: object, wanted: Scalar) -> bool:
    if isinstance(wanted, bool | str):
        return type(element) is type(wanted) and element == wanted
    if whole_number_beyond_doubles(wanted):
        return type(element) is int and element == wanted
    return _is_number(element) and float(element) == float(wanted)


def _within(element: object, bounds: Range) -> bool:
    return (
        _is_number(element)
        and (bounds.gt is None or float(element) > bounds.gt)
        and (bounds.gte is None or float(element) >= bounds.gte)
        and (bounds.lt is None or float(element) < bounds.lt)
        and (bounds.lte is None or float(element) <= bounds.lte)
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---------------------------------------------------------------------------------------------------------- wire form

_BOUNDS = ("gt", "gte", "lt", "lte")
_FORMS = "one of: field with equals, field with in, field with gt/gte/lt/lte, all, any, not"


def parse(value: object) -> Filter:
    """The wire form as a tree. Raises `InvalidInput` naming the place, the value and what is allowed there.

        {"field": F, "equals": V}       V a string, a number or a boolean
        {"field": F, "in": [V, …]}      1 to 1,000 strings, or as many whole numbers
        {"field": F, "gte": N, …}       one or more of gt, gte, lt, lte; numbers
        {"all": [filter, …]}  {"any": [filter, …]}  {"not": filter}

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
        if keys == {"not"}:
            return Not(self.condition(value["not"], f"{at}.not", depth + 1))
        return _leaf(value, keys, at)

    def _several(self, value: object, at: str, depth: int) -> tuple[Filter, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise _invalid(at, "is not a list with at least one filter", value, f"1 to {MAX_CONDITIONS} filters")
        return tuple(self.condition(each, f"{at}[{i}]", depth + 1) for i, each in enumerate(value))


def _leaf(value: Mapping[Any, Any], keys: set[Any], at: str) -> Filter:
    if keys == {"field", "equals"}:
        return Equals(_field(value["field"], at), _scalar(value["equals"], f"{at}.equals"))
    if keys == {"field", "in"}:
        return In(_field(value["field"], at), _values(value["in"], f"{at}.in"))
    if len(keys) > 1 and keys <= {"field", *_BOUNDS} and "field" in keys:
        bounds = {key: _bound(value[key], f"{at}.{key}") for key in _BOUNDS if key in keys}
        return Range(_field(value["field"], at), **bounds)
    raise _invalid(at, f"has the keys {sorted(map(str, keys))}", value, _FORMS)


def _field(value: object, at: str) -> str:
    at = f"{at}.field"
    if not isinstance(value, str):
        raise _invalid(at, "is not a string", value, "string")
    if not all(steps(value)):
        raise _invalid(at, "is empty or has an empty part", value, "1 or more characters between dots")
    if len(value) > MAX_FIELD_CHARS:
        raise _invalid(at, f"has {len(value)} characters", value, MAX_FIELD_CHARS)
    if '"' in value or "\\" in value:
        raise _invalid(at, 'holds " or \\, which no store can look up', value, 'any character but " and \\')
    return _text(value, at)


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
    if not isinstance(value, int | float) or isinstance(value, bool):
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


def _shown(value: object) -> object:
    """The value for the error: as it is when small and writable as JSON, else cut short."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return ascii(type(value).__name__) if not isinstance(value, float) else str(value)
    return value if len(text) <= 200 else text[:200] + "…"
