"""The words of a text, as filters and lexical search compare them: Unicode's letters, digits and marks, normalised and
case folded."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from model.text import normalise

# Scripts that put no space between words: Han, kana and their like, cut into overlapping pairs.
_UNSPACED = re.compile(
    "([\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+)"
)
_ASCII_WORD = re.compile("[0-9a-z]+")
# No script has combining marks from here on.
_MARKS_END = 0x20000


def words(text: str) -> list[str]:
    """Return the words in order: NFKC, case folded, runs of unspaced scripts as their overlapping pairs."""
    return list(iterate_words(text))


def iterate_words(text: str) -> Iterator[str]:
    # The same in a quarter of the time.
    return iter(_ASCII_WORD.findall(text.lower())) if text.isascii() else _iterate_any(text)


def _iterate_any(text: str) -> Iterator[str]:
    normalised = normalise("NFKC", text).casefold().replace("_", " ")
    for match in _runs().finditer(normalised):
        run = match[0]
        if run.isascii():
            yield run
            continue
        for place, part in enumerate(_UNSPACED.split(run)):
            # What the pattern matched stands at the odd places.
            if place % 2 and len(part) > 1:
                yield from (part[start : start + 2] for start in range(len(part) - 1))
            elif part:
                yield part


def iterate_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the words of a text as `iterate_words` does, each with where it begins and ends in the text.

    A word that normalisation makes out of several characters of the text is where these are.
    """
    for match in _written_runs().finditer(text):
        run, start = match[0], match.start()
        if run.isascii():
            yield run.casefold(), start, match.end()
            continue
        normalised, places = _normalised(run)
        for word, first, end in _spans(normalised):
            yield word, start + places[first][0], start + places[end - 1][1]


def _spans(normalised: str) -> Iterator[tuple[str, int, int]]:
    """Yield the words of a normalised text with their places in it."""
    for match in _runs().finditer(normalised):
        end = match.start()
        for place, part in enumerate(_UNSPACED.split(match[0])):
            start, end = end, end + len(part)
            if place % 2 and len(part) > 1:
                yield from (
                    (part[place : place + 2], start + place, start + place + 2) for place in range(len(part) - 1)
                )
            elif part:
                yield part, start, end


def _normalised(run: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a run normalised, and where each of its characters came from in the run."""
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    for cluster in _clusters().finditer(run):
        part = normalise("NFKC", cluster[0]).casefold()
        parts.append(part)
        places += [cluster.span()] * len(part)
    return "".join(parts), places


@cache
def _clusters() -> re.Pattern[str]:
    """Return the pattern of a character with what normalisation may join to it: its marks, and Hangul by the
    syllable."""
    return re.compile(f"[\u1100-\u11ff]+|.[{_marks()}\uff9e\uff9f]*", re.DOTALL)


@cache
def _written_runs() -> re.Pattern[str]:
    """Return the pattern of a run before normalisation, which makes letters of some signs, such as ℡ and ㎏."""
    signs = "".join(
        character
        for character in map(chr, range(_MARKS_END))
        if not (character.isalnum() or character == "_") and _runs().search(unicodedata.normalize("NFKC", character))
    )
    return re.compile(rf"(?:[^\W_]|[{_marks()}{re.escape(signs)}])+")


@cache
def _marks() -> str:
    """Return the marks: Python's \\w leaves out those that are vowels in many scripts."""
    return "".join(chr(code) for code in range(_MARKS_END) if unicodedata.category(chr(code)) in ("Mn", "Mc"))


@cache
def _runs() -> re.Pattern[str]:
    """Return the pattern of a run in a normalised text."""
    return re.compile(rf"[\w{_marks()}]+")
