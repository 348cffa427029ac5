"""Filters over metadata as a small tree that every store translates. The wire form is in `parse`.

    {"field": "region", "equals": "Europe"}          {"field": "area_km2", "gte": 1000, "lt": 50000}
    {"field": "region", "in": ["Europe", "Asia"]}    {"all": [..]}   {"any": [..]}   {"not": {..}}
"""

from __future__ import annotations

from dataclasses import dataclass

Scalar = str | int | float | bool


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
class All:
    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Any:
    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    of: Filter


Filter = Equals | In | Range | All | Any | Not


def parse(value: object) -> Filter:
    """The wire form as a tree. Raises `InvalidInput` naming the place, the value and what is allowed there."""
    ...


def matches(condition: Filter, metadata: object) -> bool:
    """The filter evaluated in plain Python: what the stores are tested against."""
    ...
