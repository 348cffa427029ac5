"""Text as weighted words for BM25: a sparse vector of a document, and one of a query whose product is the score but for
the IDF.

score(q, d) = Σ over words of q:  IDF(w) · tf·(K1 + 1) / (tf + K1·(1 − B + B·|d| / MEAN_WORDS))

The last factor is in the document's vector. The engine multiplies by IDF(w) = ln(1 + (N − n + ½) / (n + ½)) when it is
asked, for it alone knows how many of the N documents with text have w. Source: Robertson and Zaragoza, The
Probabilistic Relevance Framework (2009), §3.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import snowballstemmer
import stop_words

from indexer.filters.words import iterate_spans, iterate_words
from model.errors import InvalidInput

SIMPLE = "simple"  # words as they are, in lower case
K1, B = 1.2, 0.75
# What |d| is compared with. A constant: a maintained mean would weigh documents by when they came, and one of another
# collection's size.
MEAN_WORDS = 64
MAX_QUERY_WORDS = 256  # different ones, the first; a document as the query may have thousands
# At most 64 letters each: some 16 MB. Stemming a new word takes 20 µs.
_CACHED_WORDS = 65_536
# Longer ones are no words of a language: they are neither stemmed, which takes seconds for 100,000 letters, nor cached.
_MAX_WORD_CHARS = 64

# The list of `stop_words` has 1,300 English words, "computer", "fire" and "area" among them. These say nothing of a
# subject.
_ENGLISH = frozenset(
    """a about am an and any are as at be because been being but by can could did do does doing d don for from had has have having he
    her here hers him his how i if in into is it its itself just ll m me might must my myself nor of on or our ours re s shall she
    should so some such t than that the their theirs them then there these they this those to too us ve very was we were what when
    where which while who whom whose why will with would you your yours""".split()  # noqa: SIM905  a list of a hundred lines is no easier to read
)


@dataclass(frozen=True, slots=True)
class Words:
    """A sparse vector: ids of 32 bits, ascending, each with its weight. Of a text without words, empty."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def languages() -> tuple[str, ...]:
    """Return `simple` and the languages with a stemmer."""
    return (SIMPLE, *sorted(snowballstemmer.algorithms()))


def check_language(language: str) -> str:
    if language not in languages():
        raise InvalidInput(
            f"language is {language!r:.60}, known are {', '.join(languages())}", field="language", value=language[:60]
        )
    return language


def document_words(text: str, language: str) -> Words:
    counts = Counter(_ids(text, language))
    length = counts.total()
    norm = K1 * (1 - B + B * length / MEAN_WORDS)
    return _sparse((word, count * (K1 + 1) / (count + norm)) for word, count in counts.items())


def query_words(text: str, language: str) -> Words:
    """Return the words of a query. A repeated word counts repeatedly."""
    counts = Counter(_ids(text, language))
    return _sparse((word, float(count)) for word, count in list(counts.items())[:MAX_QUERY_WORDS])


def tokens(text: str, language: str) -> list[str]:
    """Return the words of a text as they are compared: of Unicode's letters, digits and marks, case folded, stemmed."""
    return [_stem(word, language) for word in _content_words(text, language)]


def matching_spans(text: str, query: str, language: str) -> Iterator[tuple[int, int, int]]:
    """Yield where the words of a query are in a text: begin, end, and the number of the word."""
    sought = frozenset(query_words(query, language).ids)
    stop_list = _stop_words(language)
    numbers: dict[str, int] = {}
    for word, start, end in iterate_spans(text):
        if word not in stop_list:
            if (number := numbers.get(word)) is None:
                number = numbers[word] = _id(word, language)
            if number in sought:
                yield start, end, number


def _content_words(text: str, language: str) -> Iterator[str]:
    stop_list = _stop_words(language)
    return (word for word in iterate_words(text) if word not in stop_list)


@cache
def _stop_words(language: str) -> frozenset[str]:
    """Return the words that say nothing of a subject; of a contraction ("can't") its single letters."""
    if language == "english":
        return _ENGLISH
    if language not in stop_words.AVAILABLE_LANGUAGES:
        return frozenset()
    entries = [list(iterate_words(entry)) for entry in stop_words.get_stop_words(language)]
    return frozenset(word for entry in entries for word in entry if len(entry) == 1 or len(word) == 1)


def _stem(word: str, language: str) -> str:
    if language == SIMPLE or len(word) > _MAX_WORD_CHARS:
        return word
    # A new stemmer each time: a stemmer holds the word it is at, and threads may come here together.
    return str(snowballstemmer.stemmer(language).stemWord(word))


def _ids(text: str, language: str) -> list[int]:
    return [
        _cached_id(word, language) if len(word) <= _MAX_WORD_CHARS else _id(word, language)
        for word in _content_words(text, language)
    ]


@lru_cache(_CACHED_WORDS)
def _cached_id(word: str, language: str) -> int:
    return _id(word, language)


def _id(word: str, language: str) -> int:
    """Return the number under which a word is stored, the same for ever.

    Of 100,000 words one or two pairs share a number, and count as one word.
    """
    return int.from_bytes(hashlib.blake2b(_stem(word, language).encode(), digest_size=4).digest(), "little")


def _sparse(weighted: Iterable[tuple[int, float]]) -> Words:
    ordered = sorted(weighted)
    return Words(tuple(word for word, _ in ordered), tuple(weight for _, weight in ordered))
