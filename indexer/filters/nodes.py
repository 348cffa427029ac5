"""The filter as a tree of plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

Scalar = str | int | float | bool

# Qdrant's geo index loses what lies on the poles or the 180th meridian: boxes end 0.1 m before them, on every store.
LAST_LATITUDE, LAST_LONGITUDE = 89.999999, 179.999999  # degrees
# Below it, two whole numbers are equal exactly when they are equal as doubles.
EXACT_DOUBLE = 2**53

# A path is keys joined by dots; a key with dots in it stands in quotes. A key with a quote or a backslash has no path.
_PLAIN_KEY, _QUOTED_KEY = r'[^."\\]+', r'"[^"\\]+"'
PATH_PATTERN = rf"^({_PLAIN_KEY}|{_QUOTED_KEY})(\.({_PLAIN_KEY}|{_QUOTED_KEY}))*$"
_PATH = re.compile(PATH_PATTERN, re.DOTALL)
_KEY = re.compile(rf"{_QUOTED_KEY}|{_PLAIN_KEY}")
MAX_PATH_CHARS = 128


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
class DateRange:
    """Bounds with a time zone."""

    field: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


@dataclass(frozen=True, slots=True)
class Empty:
    """The field is absent, null or []."""

    field: str


@dataclass(frozen=True, slots=True)
class FullText:
    """Every word of `text` is in the field, in any order and case; of a list, each in one of its texts."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class GeoRadius:
    """Nearer than `radius_m` to the centre; degrees."""

    field: str
    lat: float
    lon: float
    radius_m: float


@dataclass(frozen=True, slots=True)
class GeoBox:
    """Inside the box, its edges excluded; degrees. One whose `left` is over `right` crosses the 180th meridian."""

    field: str
    top: float
    left: float
    bottom: float
    right: float

    def spans(self) -> list[tuple[float, float]]:
        """Return the longitudes as west-to-east intervals, none of them empty."""
        whole = self.left <= self.right
        spans = [(self.left, self.right)] if whole else [(self.left, LAST_LONGITUDE), (-LAST_LONGITUDE, self.right)]
        return [(west, east) for west, east in spans if west < east]


@dataclass(frozen=True, slots=True)
class Nested:
    """One object in the list under `field` fulfils all of `of` by itself; the fields of `of` are that object's."""

    field: str
    of: Filter


@dataclass(frozen=True, slots=True)
class AllOf:
    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AtLeast:
    n: int
    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    of: Filter


Leaf = Equals | In | Range | DateRange | Empty | FullText | GeoRadius | GeoBox
Filter = Leaf | Nested | AllOf | AnyOf | AtLeast | Not


def tight_bounds(condition: Range | DateRange) -> dict[str, Any]:
    """Return at most one lower and one upper bound: given both `gt` and `gte`, Qdrant's index looks at `gt` alone."""
    names = ("gt", "gte", "lt", "lte")
    bounds = {name: value for name in names if (value := getattr(condition, name)) is not None}
    if "gt" in bounds and "gte" in bounds:
        bounds.pop("gte" if bounds["gt"] >= bounds["gte"] else "gt")
    if "lt" in bounds and "lte" in bounds:
        bounds.pop("lte" if bounds["lt"] <= bounds["lte"] else "lt")
    return bounds


def can_be_named(key: str) -> bool:
    """Return whether a path can name a key of metadata."""
    return 1 <= len(key) <= MAX_PATH_CHARS and '"' not in key and "\\" not in key


@lru_cache(4_096)
def steps(path: str) -> tuple[str, ...]:
    """Return the keys that lead to a field: `author.name` is the key `name` of the object under `author`. A key in
    double quotes may have dots: `"loc.page".first` is the key `first` of the object under `loc.page`."""
    return tuple(key.removeprefix('"').removesuffix('"') for key in _KEY.findall(path))


def path_problem(path: str) -> str | None:
    """Say what is wrong with a path to a field, or return None."""
    if _PATH.fullmatch(path):
        return None
    if "\\" in path:
        return "holds a backslash, which no store can look up"
    if path.count('"') % 2 or not all(path.split(".")):
        return "is empty, has an empty part, or a quote that is not closed"
    return 'has a quote inside a key: only a whole key can stand in quotes, as in "loc.page".first'


def whole_number_beyond_doubles(value: Scalar) -> bool:
    """Return whether a number must be compared as a 64-bit integer, because several such numbers share one double."""
    return type(value) is int and abs(value) >= EXACT_DOUBLE
