"""Cutting a text that is longer than a model reads into passages, at the ends of its sentences.

A sentence that is too long by itself is cut between words, and a word that is too long between characters. Sizes are
tokens of the model's own tokenizer. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from model.errors import InvalidInput

# Of one text, unless the caller says fewer.
MAX_PASSAGES = 64
# A tokenizer makes at most a token for each byte, and UTF-8 has at most four bytes for each character.
_MOST_TOKENS_A_CHARACTER = 4
# After a full stop, question or exclamation mark and what closes behind it, unless a small letter follows, as after an
# abbreviation; after those of Chinese and Japanese, which no space follows; and at a blank line.
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+(?![a-zà-ÿ])|[。！？][」』”’）]*|\n\s*\n")
_WORD_END = re.compile(r"\s+")

# Counts the tokens of each text, without those that a tokenizer puts around a text.
CountTokens = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Cut:
    """How texts are cut: passages of at most `tokens`, those around a text included (None: as many as the model reads),
    of which about `overlap` are repeated from the passage before, and at most `most` passages of a text."""

    tokens: int | None = None
    overlap: int = 0
    most: int = MAX_PASSAGES


@dataclass(frozen=True, slots=True)
class Passages:
    """The passages of a text, each as the places of its first character and behind its last. `dropped_tokens` are those
    of the text behind the last passage."""

    spans: tuple[tuple[int, int], ...]
    dropped_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Unit:
    start: int
    end: int
    tokens: int


def may_exceed(text: str, tokens: int) -> bool:
    """Return whether a text may have more than so many tokens: False is certain."""
    return len(text.encode()) + 2 > tokens


def cut_text(text: str, cut: Cut, limit: int, count: CountTokens) -> Passages:
    """Return the passages of a text, none for a blank one. `limit` is how many tokens a passage may have, without those
    around it.
    """
    if limit < 1:
        raise InvalidInput(f"passages of {limit} tokens hold no text", field="tokens", value=limit, limit=1)
    units = list(_units(text, 0, len(text), limit, count, (_SENTENCE_END, _WORD_END)))
    spans: list[tuple[int, int]] = []
    first, after = 0, 0
    while after < len(units) and len(spans) < cut.most:
        after, size = first, 0
        while after < len(units) and (after == first or size + units[after].tokens <= limit):
            size += units[after].tokens
            after += 1
        # Some tokenizers count the space between two words too.
        while after > first + 1 and count([text[units[first].start : units[after - 1].end]])[0] > limit:
            after -= 1
        spans.append((units[first].start, units[after - 1].end))
        first = _overlapping(units, first, after, cut.overlap)
    return Passages(tuple(spans), sum(unit.tokens for unit in units[after:]))


def _overlapping(units: Sequence[_Unit], first: int, after: int, overlap: int) -> int:
    """Return where the passage behind `after` begins: with the last units of this one, as far as the overlap goes."""
    begin, size = after, 0
    while begin - 1 > first and size + units[begin - 1].tokens <= overlap:
        begin -= 1
        size += units[begin].tokens
    return begin


def _units(
    text: str, start: int, end: int, limit: int, count: CountTokens, ends: Sequence[re.Pattern[str]]
) -> Iterator[_Unit]:
    """Yield the smallest pieces that passages are put together from: sentences, and parts of those over the limit."""
    spans = list(_pieces(text, start, end, ends[0])) if ends else list(_slices(start, end, limit))
    for (begin, stop), tokens in zip(spans, count([text[begin:stop] for begin, stop in spans]), strict=True):
        if tokens > limit and ends:
            yield from _units(text, begin, stop, limit, count, ends[1:])
        else:
            yield _Unit(begin, stop, tokens)


def _pieces(text: str, start: int, end: int, ending: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield the pieces between the ends, without the white space around them and without blank ones."""
    begin = start
    for match in (*ending.finditer(text, start, end), None):
        stop = end if match is None else match.end()
        piece = text[begin:stop]
        if stripped := piece.strip():
            first = begin + len(piece) - len(piece.lstrip())
            yield first, first + len(stripped)
        begin = stop


def _slices(start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    size = max(1, limit // _MOST_TOKENS_A_CHARACTER)
    return ((begin, min(begin + size, end)) for begin in range(start, end, size))
