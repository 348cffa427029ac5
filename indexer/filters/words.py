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
# No script has combining marks from here on.
_MARKS_END = 0x20000


def words(text: str) -> list[str]:
    """Return the words in order: NFKC, case folded, runs of unspaced scripts as their overlapping pairs."""
    return list(iterate_words(text))


def iterate_words(text: str) -> Iterator[str]:
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


@cache
def _runs() -> re.Pattern[str]:
    """Return the pattern of a run. Python's \\w leaves out the marks that are vowels in many scripts, so they are
    added."""
    marks = "".join(chr(code) for code in range(_MARKS_END) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    return re.compile(rf"[\w{marks}]+")
