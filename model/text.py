"""Unicode normalisation whose time is linear in the text, whatever the text.

Normalisation sorts each run of combining marks, and CPython sorts it by insertion, with the interpreter's lock held: a
run of 100,000 marks takes 25 s. A run is therefore broken after 30 marks, as the Stream-Safe Text Format does (Unicode
Standard Annex #15, section 13), and a long text is normalised piece by piece, so that other threads run in between.
Texts without such runs are normalised as ever.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Literal

Form = Literal["NFC", "NFKC"]

MAX_MARKS = 30
# UAX #15 breaks a run with this character, the combining grapheme joiner: it is no mark to be sorted, and is not shown.
_COMBINING_GRAPHEME_JOINER = "\u034f"
# Some milliseconds of work: how long the interpreter's lock is held at a time.
_PIECE_CHARS = 8_192


def normalise(form: Form, text: str) -> str:
    """Return `text` in normal form, runs of marks broken after 30."""
    if text.isascii():
        return text
    return "".join(unicodedata.normalize(form, piece) for piece in _pieces(stream_safe(text)))


def stream_safe(text: str) -> str:
    """Return `text` with a grapheme joiner after every 30 combining marks that have more behind them."""
    return text if text.isascii() else _long_run().sub(lambda run: run[0] + _COMBINING_GRAPHEME_JOINER, text)


def _pieces(text: str) -> Iterator[str]:
    """Cut `text` where normalisation of the parts gives the parts of the normalised whole."""
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARS
        if (boundary := _boundary().search(text, end)) is None:
            yield text[start:]
            return
        yield text[start : boundary.start()]
        start = boundary.start()


@cache
def _long_run() -> re.Pattern[str]:
    """Match 30 characters with another behind them, each of which decomposes into marks alone.

    By decomposition, not by class: the half-width voicing marks have class 0 and become marks in NFKC.
    """
    marks = _character_class(
        character
        for character in _characters()
        if all(unicodedata.combining(part) for part in unicodedata.normalize("NFKD", character))
    )
    return re.compile(rf"{marks}{{{MAX_MARKS}}}(?={marks})")


@cache
def _boundary() -> re.Pattern[str]:
    """Match a character that neither sorts before nor composes with what stands before it."""
    composing = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # vowels and finals of Hangul
    for character in _characters():
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            composing.add(chr(int(parts[1], 16)))
    joining = _character_class(
        character
        for character in _characters()
        if unicodedata.combining(first := unicodedata.normalize("NFKD", character)[0]) or first in composing
    )
    return re.compile(f"[^{joining[1:]}")


def _characters() -> Iterator[str]:
    """Yield every character that a normal form may change, or that may change its neighbours, by Unicode 15.1 and some
    room above it."""
    yield from (chr(code) for code in range(0x80, min(0x30000, sys.maxunicode)) if not 0xD800 <= code <= 0xDFFF)


def _character_class(characters: Iterator[str]) -> str:
    """Return a regular expression's character class, with neighbouring characters joined to ranges."""
    ranges: list[list[int]] = []
    for code in map(ord, characters):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]"
