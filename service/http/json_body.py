"""JSON bodies, whose size in values is bounded before anything is built from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from model.errors import TooLarge, UnsupportedMediaType
from model.records import strict_json

# Of a body that is looked through at once.
_PIECE_BYTES = 2**20
# Of a body from which on it is read in a thread: a smaller one is read sooner than a thread begins.
_LARGE_BYTES = 2**20

T = TypeVar("T")


def read_json(body: bytes | bytearray, max_values: int) -> Any:
    """Parse strict JSON, with or without a byte order mark. Raises `orjson.JSONDecodeError`, or `TooLarge` for too many
    values."""
    check_encoding(body)
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
    """Return whether there are more than `max_values` commas and brackets outside the texts. The time is linear in the
    body, whatever it contains."""
    count, quotes, is_inside, start = 0, 0, False, 0
    while start < len(body):
        piece = _piece(body, start)
        start += len(piece)
        if b"\\" in piece:
            # An escaped backslash first: the quote behind it ends the text.
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        quotes += len(parts) - 1
        count += _marks(b"".join(parts[is_inside::2]))
        # Each mark has at most two texts behind it, a key and its value.
        if count > max_values or quotes > 4 * (max_values + 1):
            return True
        is_inside ^= len(parts) % 2 == 0
    return False


def _piece(body: bytes | bytearray, start: int) -> bytes | bytearray:
    """Return the next piece, which does not end inside an escape."""
    piece = body[start : start + _PIECE_BYTES]
    backslashes = len(piece) - len(piece.rstrip(b"\\"))
    return body[start : start + len(piece) + 1] if backslashes % 2 else piece


async def read_apart(read: Callable[[bytes], T], body: bytes) -> T:
    """Read a body, a large one in a thread, so that the event loop has its turn between the steps."""
    return read(body) if len(body) < _LARGE_BYTES else await asyncio.to_thread(read, body)


def check_encoding(body: bytes | bytearray) -> None:
    """Raise `UnsupportedMediaType` for UTF-16 and UTF-32, recognised by their marks or the zeros of their first
    characters."""
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in body[:4]:
        raise UnsupportedMediaType("the body is UTF-16 or UTF-32: send it as UTF-8", field="body", limit="utf-8")


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
