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
from itertools import filterfalse

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
# Of each language in use; at most 64 letters each: some 16 MB. Stemming a new word takes 20 µs.
_CACHED_WORDS = 65_536
# Longer ones are no words of a language: they are neither stemmed, which takes seconds for 100,000 letters, nor cached.
_MAX_WORD_CHARS = 64

# Behind a language: words count a little too for beginning with a word of the query, or differing in a letter from it.
TOLERANT = "+tolerant"
# Of a whole word; so little that documents with the word come first, and enough to order those without.
_NEAR_WEIGHT = 0.3
# A word of the query is a beginning from three letters on: shorter ones begin too many words.
_PREFIX_LETTERS = range(3, 13)
# Words of four letters are a letter from too many others; very long ones would be many terms.
_TYPO_LETTERS = range(5, 25)
_CACHED_NEAR_WORDS = 8_192

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
    if _base(language) not in languages():
        raise InvalidInput(
            f"language is {language!r:.60}, known are {', '.join(languages())}, each with {TOLERANT} if words may be "
            "beginnings or have a typo",
            field="language",
            value=language[:60],
        )
    return language


def _base(language: str) -> str:
    return language.removesuffix(TOLERANT)


def document_words(text: str, language: str) -> Words:
    counts = Counter(_ids(text, language))
    length = counts.total()
    norm = K1 * (1 - B + B * length / MEAN_WORDS)
    # Few different ones: most words stand once in a text.
    weight_of = {count: count * (K1 + 1) / (count + norm) for count in set(counts.values())}
    if not language.endswith(TOLERANT):
        ids = sorted(counts)
        return Words(tuple(ids), tuple([weight_of[counts[word]] for word in ids]))
    near: dict[int, float] = {}
    for written in set(_content_words(text, language)):
        weight = weight_of[counts[_id(written, language)]]
        for term in (*_typo_terms(written), *_prefix_terms(written)):
            near[term] = max(near.get(term, 0.0), weight)
    return _sparse((near | {word: weight_of[count] for word, count in counts.items()}).items())


def query_words(text: str, language: str) -> Words:
    """Return the words of a query. A repeated word counts repeatedly."""
    counts = Counter(_ids(text, language))
    weights = {word: float(count) for word, count in list(counts.items())[:MAX_QUERY_WORDS]}
    if not language.endswith(TOLERANT):
        return _sparse(weights.items())
    near: dict[int, float] = {}
    for written in dict.fromkeys(_content_words(text, language)):
        if (weight := weights.get(_id(written, language))) is None:
            continue
        typos = _typo_terms(written)
        shares = [(term, 1 / len(typos)) for term in typos]
        if len(written) in _PREFIX_LETTERS:
            shares.append((_hash(f"^{written}"), 1.0))
        for term, share in shares:
            near[term] = near.get(term, 0.0) + _NEAR_WEIGHT * weight * share
    return _sparse((near | weights).items())


def tokens(text: str, language: str) -> list[str]:
    """Return the words of a text as they are compared: of Unicode's letters, digits and marks, case folded, stemmed."""
    return [_stem(word, language) for word in _content_words(text, language)]


def matching_spans(text: str, query: str, language: str) -> Iterator[tuple[int, int, int]]:
    """Yield where the words of a query are in a text: begin, end, and the number of the word."""
    sought = frozenset(query_words(query, language).ids)
    stop_list = _stop_words(language)
    numbers: dict[str, int | None] = {}
    for word, start, end in iterate_spans(text):
        if word in stop_list:
            continue
        if word not in numbers:
            terms = [_id(word, language)]
            if language.endswith(TOLERANT):
                terms += [*_typo_terms(word), *_prefix_terms(word)]
            numbers[word] = next((term for term in terms if term in sought), None)
        if (number := numbers[word]) is not None:
            yield start, end, number


def _content_words(text: str, language: str) -> Iterator[str]:
    stop_list = _stop_words(language)
    return filterfalse(stop_list.__contains__, iterate_words(text)) if stop_list else iterate_words(text)


@cache
def _stop_words(language: str) -> frozenset[str]:
    """Return the words that say nothing of a subject; of a contraction ("can't") its single letters."""
    language = _base(language)
    if language == "english":
        return _ENGLISH
    if language not in stop_words.AVAILABLE_LANGUAGES:
        return frozenset()
    entries = [list(iterate_words(entry)) for entry in stop_words.get_stop_words(language)]
    return frozenset(word for entry in entries for word in entry if len(entry) == 1 or len(word) == 1)


def _stem(word: str, language: str) -> str:
    language = _base(language)
    if language == SIMPLE or len(word) > _MAX_WORD_CHARS:
        return word
    # A new stemmer each time: a stemmer holds the word it is at, and threads may come here together.
    return str(snowballstemmer.stemmer(language).stemWord(word))


def _ids(text: str, language: str) -> list[int]:
    return list(map(_numbers(language).__getitem__, _content_words(text, language)))


class _Numbers(dict[str, int]):
    """The numbers of words of one language, of the last ones that were asked for. For any number of threads."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._language = language

    def __missing__(self, word: str) -> int:
        number = _id(word, self._language)
        if len(word) <= _MAX_WORD_CHARS:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = number
        return number


@cache
def _numbers(language: str) -> _Numbers:
    """Return the numbers of a language's words; there are as many languages as stemmers, twice."""
    return _Numbers(language)


def _id(word: str, language: str) -> int:
    """Return the number under which a word is stored, the same for ever.

    Of 100,000 words one or two pairs share a number, and count as one word.
    """
    return _hash(_stem(word, language))


def _hash(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "little")


@lru_cache(_CACHED_NEAR_WORDS)
def _typo_terms(word: str) -> tuple[int, ...]:
    """Return the terms that two words share which are a letter apart: the word, and the word without each of its
    letters. So it is with a letter too much, too few, another, or two exchanged. No word begins with these signs.

    Source: the deletion neighbourhood of Mor and Fraenkel, Communications of the ACM 25 (1982).
    """
    if len(word) not in _TYPO_LETTERS:
        return ()
    shorter = {word[:place] + word[place + 1 :] for place in range(len(word))}
    return tuple(_hash(f"~{variant}") for variant in sorted({word, *shorter}))


@lru_cache(_CACHED_NEAR_WORDS)
def _prefix_terms(word: str) -> tuple[int, ...]:
    """Return the terms of the beginnings of a word."""
    return tuple(_hash(f"^{word[:length]}") for length in _PREFIX_LETTERS if length < len(word))


def _sparse(weighted: Iterable[tuple[int, float]]) -> Words:
    ids, weights = tuple(zip(*sorted(weighted), strict=True)) or ((), ())
    return Words(ids, weights)
