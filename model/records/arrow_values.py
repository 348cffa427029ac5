"""Arrow values as the JSON that they mean. docs/imports.md has the table of types.

Bytes stay bytes, because they may be an image. What JSON cannot hold becomes `Refused`, so that it harms its field
alone.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from model.records import strict_json
from model.records.base import FixedBytes, Refused

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_INT64, _UINT64 = -(2**63), 2**64
_DAY_S = 86_400
_TOO_LATE = "a date or time outside the years 1 to 9999"


def json_values(array: Any) -> list[Any]:
    """Return one value for each of the array: None, bool, int, float, str, bytes, list, dict or `Refused`."""
    try:
        return _values(array)
    except (ValueError, OverflowError, TypeError, pa.ArrowException) as error:
        if len(array) == 1:
            return [Refused(f"a value of type {array.type} that cannot be read: {error}"[:200])]
        return [json_values(array.slice(place, 1))[0] for place in range(len(array))]


def _values(array: Any) -> list[Any]:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(array)
    if pa.types.is_dictionary(kind):
        return _dictionary(array)
    for matches, convert in _CONVERTERS:
        if matches(kind):
            return convert(array)
    raise TypeError(f"{kind} has no meaning in JSON")


def _plain(array: Any) -> list[Any]:
    return list(array.to_pylist())


def _floats(array: Any) -> list[Any]:
    return [_finite(value) for value in array.to_pylist()]


def _finite(value: float | None) -> Any:
    """Return a number, or None for NaN, which pandas writes for a missing value."""
    if value is None or math.isnan(value):
        return None
    return Refused("a number that is infinite") if math.isinf(value) else value


def _decimals(array: Any) -> list[Any]:
    return [None if value is None else _number(value) for value in array.to_pylist()]


def _number(value: Decimal) -> int | float | str:
    """Return a number that is written with the same digits, or the digits as a string where there is none."""
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value() and abs(value.adjusted()) < 20 and _INT64 <= int(value) < _UINT64:
        return int(value)
    near = float(value)
    return near if math.isfinite(near) and Decimal(repr(near)) == value else format(value, "f")


def _fixed(array: Any) -> list[Any]:
    return [None if value is None else FixedBytes(value) for value in array.to_pylist()]


def _dates(array: Any) -> list[Any]:
    if pa.types.is_date64(array.type):
        array = array.cast(pa.date32(), safe=False)
    return _or_too_late(array, lambda part: [value and value.isoformat() for value in part.to_pylist()])


def _timestamps(array: Any) -> list[Any]:
    """Return times as ISO 8601, with nine digits where nanoseconds need them."""
    per_s = _PER_SECOND[array.type.unit]
    counts = array.cast(pa.int64()).to_pylist()
    factor = per_s // 10**6 if per_s > 10**6 else 1
    scale = 1 if per_s >= 10**6 else 10**6 // per_s
    micros = [None if count is None else count // factor * scale for count in counts]
    if any(count is not None and not _INT64 <= count < 2**63 for count in micros):
        if len(array) > 1:
            raise OverflowError(_TOO_LATE)
        return [Refused(_TOO_LATE)]
    whole = pa.array(micros, pa.int64()).cast(pa.timestamp("us", array.type.tz))
    texts = _or_too_late(whole, lambda part: [value and value.isoformat() for value in part.to_pylist()])
    return [
        text if count is None or not isinstance(text, str) else _with_nanoseconds(text, count % factor)
        for text, count in zip(texts, counts, strict=True)
    ]


def _with_nanoseconds(text: str, nanoseconds: int) -> str:
    """Put the last three of nine digits behind the six of an ISO time."""
    if not nanoseconds:
        return text
    clock, offset = text[:26], text[26:]
    if "." not in text:
        clock, offset = f"{text[:19]}.000000", text[19:]
    return f"{clock}{nanoseconds:03}{offset}"


def _or_too_late(array: Any, convert: Callable[[Any], list[Any]]) -> list[Any]:
    try:
        return convert(array)
    except (ValueError, OverflowError):
        if len(array) == 1:
            return [Refused(_TOO_LATE)]
        return [_or_too_late(array.slice(place, 1), convert)[0] for place in range(len(array))]


def _times(array: Any) -> list[Any]:
    per_s = _PER_SECOND[array.type.unit]
    counts = array.cast(pa.int32() if pa.types.is_time32(array.type) else pa.int64()).to_pylist()
    return [None if count is None else _clock(count, per_s) for count in counts]


def _clock(count: int, per_s: int) -> str | Refused:
    seconds, fraction = divmod(count, per_s)
    if not 0 <= seconds < _DAY_S:
        return Refused("a time of day outside its day")
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    digits = f"{fraction * 10**9 // per_s:09}"
    return text if not fraction else f"{text}.{digits[:6] if digits.endswith('000') else digits}"


def _durations(array: Any) -> list[Any]:
    per_s = _PER_SECOND[array.type.unit]
    return [None if count is None else _number(Decimal(count) / per_s) for count in array.cast(pa.int64()).to_pylist()]


def _lists(array: Any) -> list[Any]:
    result: list[Any] = []
    for place in range(len(array)):
        item = array[place]
        result.append(None if not item.is_valid else _whole(json_values(item.values)))
    return result


def _whole(values: list[Any]) -> Any:
    """Return a list, or why it cannot be one."""
    return next((value for value in values if isinstance(value, Refused)), values)


def _structs(array: Any) -> list[Any]:
    names = [field.name for field in array.type]
    if len(set(names)) < len(names):
        raise TypeError("a struct has two fields of one name")
    columns = [json_values(column) for column in array.flatten()]
    valid = array.is_valid().to_pylist()
    rows = zip(*columns, strict=True) if columns else [()] * len(array)
    return [_object(names, row) if is_valid else None for row, is_valid in zip(rows, valid, strict=True)]


def _object(names: list[Any], values: Any) -> Any:
    return next((value for value in values if isinstance(value, Refused)), dict(zip(names, values, strict=True)))


def _maps(array: Any) -> list[Any]:
    """Return maps as objects; keys that are numbers, dates or booleans become text."""
    result: list[Any] = []
    for place in range(len(array)):
        item = array[place]
        if not item.is_valid:
            result.append(None)
            continue
        entries = item.values
        keys, values = json_values(entries.field(0)), json_values(entries.field(1))
        result.append(_map(keys, values))
    return result


def _map(keys: list[Any], values: list[Any]) -> Any:
    names = [key if isinstance(key, str) else orjson.dumps(key).decode() for key in keys if _is_scalar(key)]
    if len(names) < len(keys):
        return Refused("a map whose keys are not text")
    if len(set(names)) < len(names):
        return Refused("a map with two values for one key")
    return _object(names, values)


def _is_scalar(key: Any) -> bool:
    return isinstance(key, str | int | float)


def _dictionary(array: Any) -> list[Any]:
    """Convert only the values that occur, each once: they may be large."""
    places = array.indices.to_pylist()
    used = sorted({place for place in places if place is not None})
    values = dict(zip(used, json_values(array.dictionary.take(pa.array(used, pa.int64()))), strict=True))
    return [None if place is None else values[place] for place in places]


def _extension(array: Any) -> list[Any]:
    name = getattr(array.type, "extension_name", "")
    values = json_values(array.storage)
    if name == "arrow.uuid":
        return [str(uuid.UUID(bytes=bytes(value))) if isinstance(value, bytes) else value for value in values]
    if name == "arrow.json":
        return [_parsed(value) if isinstance(value, str) else value for value in values]
    if name == "arrow.bool8":
        return [value if value is None else bool(value) for value in values]
    return values


def _parsed(text: str) -> Any:
    try:
        return strict_json.loads(text.encode())
    except ValueError:
        return Refused("text of type JSON that is not JSON")


def _run_ends(array: Any) -> list[Any]:
    return json_values(pa.compute.run_end_decode(array))


_CONVERTERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Any]]], ...] = (
    (pa.types.is_null, _plain),
    (pa.types.is_boolean, _plain),
    (pa.types.is_integer, _plain),
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_string, _plain),
    (pa.types.is_large_string, _plain),
    (pa.types.is_fixed_size_binary, _fixed),
    (pa.types.is_binary, _plain),
    (pa.types.is_large_binary, _plain),
    (pa.types.is_date, _dates),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_time, _times),
    (pa.types.is_duration, _durations),
    (pa.types.is_map, _maps),
    (pa.types.is_struct, _structs),
    (pa.types.is_list, _lists),
    (pa.types.is_large_list, _lists),
    (pa.types.is_fixed_size_list, _lists),
    (pa.types.is_run_end_encoded, _run_ends),
)
