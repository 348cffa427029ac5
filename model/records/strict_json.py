"""Strict JSON, as bodies and files have it: no NaN, no half of a surrogate pair, and whole numbers of any size
exact."""

from __future__ import annotations

import codecs
from typing import Any

import orjson
from pydantic_core import from_json

# Digits in a row that may be a whole number over 64 bits, which orjson would round to a float.
_LONG, _LONG_NEGATIVE = b"0" * 20, b"-" + b"0" * 19
_DIGITS = bytes(ord("0") if byte in b"0123456789" else byte if byte == ord("-") else ord(" ") for byte in range(256))
_PIECE_BYTES = 2**20


def loads(data: bytes | bytearray) -> Any:
    """Parse JSON, with or without a byte order mark. Raises `orjson.JSONDecodeError`.

    A whole number over 64 bits comes as the integer that it is, for whoever reads it to refuse.
    """
    text = memoryview(data)[len(codecs.BOM_UTF8) :] if data.startswith(codecs.BOM_UTF8) else data
    value = orjson.loads(text)
    if not _has_long_number(data):
        return value
    try:
        return from_json(bytes(text), allow_inf_nan=False)
    except ValueError as error:
        raise orjson.JSONDecodeError(str(error), "", 0) from error


def _has_long_number(data: bytes | bytearray) -> bool:
    """Look through the data in pieces that overlap, so that no large body is copied."""
    for start in range(0, len(data), _PIECE_BYTES):
        digits = data[start : start + _PIECE_BYTES + len(_LONG)].translate(_DIGITS)
        if _LONG in digits or _LONG_NEGATIVE in digits:
            return True
    return False
