"""JSON bodies, whose size in values is bounded before anything is built from them."""

from __future__ import annotations

import codecs
from typing import Any

import orjson

from model.errors import TooLarge


def read_json(body: bytes | bytearray, max_values: int) -> Any:
    """Parse strict JSON, with or without a byte order mark. Raises `orjson.JSONDecodeError`, or `TooLarge` for too many
    values."""
    check_values(body, max_values)
    return orjson.loads(memoryview(body)[3:] if body.startswith(codecs.BOM_UTF8) else body)


def check_values(body: bytes | bytearray, max_values: int) -> None:
    """Refuse a body by what it would take to build it: each value but the first of its list or object has a comma
    before it."""
    count = body.count(b",") + body.count(b"[") + body.count(b"{")
    if count > max_values:
        raise TooLarge(
            f"the body has {count} commas and opening brackets, those inside texts included; limit is {max_values}. "
            "Send it in several calls",
            field="body",
            value=count,
            limit=max_values,
        )


def check_counts(body: Any, limits: dict[str, int]) -> None:
    """Refuse a body by the length of its lists, before each element is looked at."""
    for field, limit in limits.items():
        values = body.get(field) if isinstance(body, dict) else None
        if isinstance(values, list) and len(values) > limit:
            raise TooLarge(
                f"{len(values)} {field.removesuffix('s')}s in one call, limit is {limit}",
                field=field,
                value=len(values),
                limit=limit,
            )
