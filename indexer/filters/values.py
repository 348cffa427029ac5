"""The meaning of metadata values to a filter: times and places, read as the Qdrant engines read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeGuard

# Whole numbers that are stored and compared exactly: signed or unsigned, in 64 bits.
EXACT_INTEGERS = range(-(2**63), 2**64)
WHOLE_NUMBERS = (
    f"a whole number must be within 64 bits, {EXACT_INTEGERS.start} to {EXACT_INTEGERS.stop - 1}; "
    "send a larger one as text"
)
EARTH_RADIUS_M = 6_371_008.8  # IUGG's mean radius, which the engines' haversine uses

_MOMENT = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(Z|z|[+-]\d{2}:\d{2})?)?",
    re.ASCII,
)


def read_moment(text: str) -> datetime | None:
    """Read an RFC 3339 date-time, a date-time without offset (UTC), or a date (its midnight in UTC), cut to
    microseconds. Return None for any other text."""
    read = _MOMENT.fullmatch(text)
    if read is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in read.groups()[:6])
    fraction, offset = read.groups()[6:]
    microsecond = int((fraction or "").ljust(6, "0")[:6])
    try:
        return datetime(year, month, day, hour, minute, second, microsecond, _zone(offset)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _zone(offset: str | None) -> timezone:
    if offset is None or offset in "Zz":
        return UTC
    away = timedelta(hours=int(offset[1:3]), minutes=int(offset[4:6]))
    return timezone(-away if offset[0] == "-" else away)


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_place(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a value is {"lat": degrees, "lon": degrees}; other keys are ignored."""
    return isinstance(value, Mapping) and is_number(value.get("lat")) and is_number(value.get("lon"))


def metres_between(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    """Return the distance along the great circle by the haversine formula; arguments are in degrees."""
    lat_a, lon_a, lat_b, lon_b = map(math.radians, (lat_a, lon_a, lat_b, lon_b))
    h = math.sin((lat_b - lat_a) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, h)))
