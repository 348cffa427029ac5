"""Bounds on text that no model and no index needs lifted: runs of combining marks, and how much is processed in one piece."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

# Unicode's Stream-Safe Text Format (UAX #15, section 13): no more marks than this on one base character.
MAX_MARKS = 30
_COMBINING_GRAPHEME_JOINER = "\u034f"
# Tokenizers hold Python's interpreter lock while they encode: 5 µs a character of Han, so some 20 ms a piece.
PIECE_CHARS = 4_000
_LAST_CODE_POINT = 0x110000


def stream_safe(text: str) -> str:
    """Return the text with a grapheme joiner after every 30 combining marks in a row.

    Normalisation sorts each run of marks by insertion, so its time is the square of a run's length; this bounds the
    length. Text that people write is returned as it is.
    """
    return text if text.isascii() else _marks().sub(rf"\g<0>{_COMBINING_GRAPHEME_JOINER}", text)


def pieces(text: str, size: int = PIECE_CHARS) -> Iterator[str]:
    """Yield the text in order in pieces of at most `size` characters, cut at a space where a piece has one."""
    start = 0
    while len(text) - start > size:
        space = text.rfind(" ", start + 1, start + size)
        end = start + size if space < 0 else space
        yield text[start:end]
        start = end
    yield text[start:]


@cache
def _marks() -> re.Pattern[str]:
    """Match `MAX_MARKS` characters in a row that normalisation may reorder."""
    codes = [code for code in range(_LAST_CODE_POINT) if unicodedata.combining(chr(code))]
    return re.compile(f"[{''.join(map(chr, codes))}]{{{MAX_MARKS}}}")
