"""JSON bodies, whose size in values is bounded before anything is built from them."""

from __future__ import annotations

from typing import Any

from model.errors import TooLarge
from model.records import strict_json

# Of a body that is looked through at once.
_PIECE_BYTES = 2**20


def read_json(body: bytes | bytearray, max_values: int) -> Any:
    """Parse strict JSON, with or without a byte order mark. Raises `orjson.JSONDecodeError`, or `TooLarge` for too many
    values."""
    check_values(body, max_values)
    return strict_json.loads(body)


def check_values(body: bytes | bytearray, max_values: int) -> None:
    """Refuse a body by what it would take to build it: each value but the first of its list or object has a comma
    before it. Commas and brackets inside texts are none."""
    if _marks(body) > max_values and _has_more(body, max_values):
        raise TooLarge(
            f"the body has more commas and opening brackets outside its texts than may be, limit is {max_values}. "
            "Send it in several calls",
            field="body",
            limit=max_values,
        )


def _marks(text: bytes | bytearray) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _has_more(body: bytes | bytearray, max_values: int) -> bool:
    """Whether there are more commas and brackets outside the texts. Linear in the body, whatever it holds."""
    if b"\\" in body:
        # An escaped backslash first: the quote behind it ends the text.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each mark has at most two texts behind it, a key and its value.
    if body.count(b'"') > 4 * (max_values + 1):
        return True
    count, is_inside = 0, False
    for start in range(0, len(body), _PIECE_BYTES):
        parts = body[start : start + _PIECE_BYTES].split(b'"')
        count += _marks(b"".join(parts[is_inside::2]))
        if count > max_values:
            return True
        is_inside ^= len(parts) % 2 == 0
    return False


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
