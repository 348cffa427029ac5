"""The passages of a text that hold the words of a query, for people to see why a document was found."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.store.bm25 import matching_spans

MAX_PASSAGES = 3
PASSAGE_CHARS = 200
# Hits of one search with passages: each text is read again, a millisecond for a thousand characters.
MAX_HIGHLIGHTED = 100
# How far before its first word a passage may begin.
_LEAD_CHARS = 60

_SENTENCE_END = re.compile(r"[.!?]\s+|[。！？]|\n+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class _Mark:
    """Words of the query that overlap in the text: where, and their numbers."""

    start: int
    end: int
    words: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Passage:
    start: int
    end: int
    marks: Sequence[_Mark]

    @property
    def worth(self) -> tuple[int, int, int]:
        """Many different words of the query come before many words, and those before an early place."""
        return len(frozenset().union(*(mark.words for mark in self.marks))), len(self.marks), -self.start


def passages(text: str | None, query: str | None, language: str) -> list[dict[str, Any]]:
    """Return `PassageOut` of the passages with most words of the query, in the order of the text. Blocking."""
    if not text or not query:
        return []
    cut = _cut(text, _marks(matching_spans(text, query, language)))
    best = sorted(cut, key=lambda passage: passage.worth)[-MAX_PASSAGES:]
    return [
        {
            "text": text[passage.start : passage.end],
            "start": passage.start,
            "end": passage.end,
            "words": [{"start": mark.start, "end": mark.end} for mark in passage.marks],
        }
        for passage in sorted(best, key=lambda passage: passage.start)
    ]


def _marks(spans: Iterable[tuple[int, int, int]]) -> list[_Mark]:
    """Join the words that overlap, as pairs of Han characters do."""
    marks: list[_Mark] = []
    for start, end, word in spans:
        if marks and start < marks[-1].end:
            last = marks.pop()
            marks.append(_Mark(last.start, max(last.end, end), last.words | {word}))
        else:
            marks.append(_Mark(start, end, frozenset({word})))
    return marks


def _cut(text: str, marks: Sequence[_Mark]) -> list[_Passage]:
    """Return the passages that together hold all marks; none overlap."""
    cut: list[_Passage] = []
    first, behind = 0, 0
    while first < len(marks):
        start = _start(text, behind, marks[first].start)
        limit = start + PASSAGE_CHARS
        following = max(first + 1, bisect_right(marks, limit, key=lambda mark: mark.end))
        limit = min(limit, marks[following].start if following < len(marks) else len(text))
        behind = _end(text, marks[following - 1].end, limit)
        cut.append(_Passage(start, behind, marks[first:following]))
        first = following
    return cut


def _start(text: str, behind: int, word: int) -> int:
    """Return where a passage begins: with a sentence that begins shortly before its first word, else with a word."""
    first = max(behind, word - _LEAD_CHARS)
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, first, word)]
    if sentences:
        return sentences[-1]
    space = _SPACE.match(text, first, word) if first == behind else _SPACE.search(text, first, word)
    if space is not None:
        return space.end()
    return first


def _end(text: str, word_end: int, limit: int) -> int:
    """Return where a passage ends: behind its last mark, with the last whole word before the limit."""
    if limit <= word_end:
        return word_end
    spaces = [match.start() for match in _SPACE.finditer(text, word_end, limit + 1)]
    if limit >= len(text) and not text[-1].isspace():
        return len(text)
    return spaces[-1] if spaces else limit
