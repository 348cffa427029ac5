"""Values stored beside the metadata, so that filters mean the same in every engine and numbers come back as posted.

Engines cut and fold text their own way, and another way without an index than with one; they hold numbers as doubles
and signed 64-bit integers, and misread some (`numbers`). So the words of texts and large whole numbers are stored as
keywords too, and the text of values that would come back changed, both beside the field in the object that holds it:

    {"name": "Café", "share": 0.1234567890123456, TERMS: {"name": "café"}, EXACT: {"share": "0.1234567890123456"}}

A single term is no list: the engines compare it alike, and Edge takes it in at half the cost.

Both keys stand for names with a control character, which keeps them apart from the metadata that callers know.
`without_terms` takes them away again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from indexer.filters.values import is_number
from indexer.filters.words import words
from indexer.store.numbers import EXACT_BY_TERM, engine_number, is_read_back, term_number

TERMS = "\x01terms"
EXACT = "\x01exact"
# Of how metadata is stored. Documents stored another way have to be indexed again.
FORMAT = 2
# Values that are stored as they are.
_PLAIN = (str, int, float, bool, type(None))
_CACHED_CHARS = 64


def with_terms(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata as it is stored, at every depth."""
    stored: dict[str, Any] = {}
    terms: dict[str, str | list[str]] = {}
    exact: dict[str, str] = {}
    for key, value in metadata.items():
        if key in (TERMS, EXACT):
            continue
        stored[key] = value
        # Most values: neither changed by an engine nor compared by a term.
        if value is None or type(value) is bool or (type(value) is int and abs(value) < EXACT_BY_TERM):
            continue
        if value_terms := _terms(value):
            terms[key] = value_terms[0] if len(value_terms) == 1 else value_terms
        if type(value) is not str:
            stored[key] = _stored(value)
            if _comes_back_changed(value):
                exact[key] = orjson.dumps(value).decode()
    return stored | ({TERMS: terms} if terms else {}) | ({EXACT: exact} if exact else {})


def without_terms(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata as it was posted."""
    exact = stored.get(EXACT, {})
    posted = {key: value for key, value in stored.items() if key not in (TERMS, EXACT)}
    if exact:
        return {key: orjson.loads(exact[key]) if key in exact else _posted(value) for key, value in posted.items()}
    return {key: value if type(value) in _PLAIN else _posted(value) for key, value in posted.items()}


def number_term(number: int) -> str:
    """Return the term of a whole number. No word has an equals sign."""
    return f"={number}"


def _stored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return with_terms(value)
    if isinstance(value, list | tuple):
        return [_stored(part) for part in value]
    return engine_number(value) if is_number(value) else value


def _posted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_terms(value)
    return [_posted(part) for part in value] if isinstance(value, list | tuple) else value


def _terms(value: Any) -> list[str]:
    """Return the terms of a field: the words of its texts, and its large whole numbers."""
    if type(value) is str:
        return _words_of(value) if len(value) > _CACHED_CHARS else [*_cached_words_of(value)]
    values = value if isinstance(value, list | tuple) else [value]
    texts = [part for part in values if isinstance(part, str)]
    numbers = [number for part in values if is_number(part) and (number := term_number(part)) is not None]
    return sorted(set(map(number_term, numbers)).union(*map(words, texts)))


def _words_of(text: str) -> list[str]:
    return sorted(set(words(text)))


# Brands, sizes and the like are the same in many documents.
@lru_cache(4096)
def _cached_words_of(text: str) -> tuple[str, ...]:
    return tuple(_words_of(text))


def _comes_back_changed(value: Any) -> bool:
    return any(engine_number(number) is not number or not _is_exact(number) for number in _numbers(value))


def _is_exact(number: float) -> bool:
    return isinstance(number, int) or is_read_back(number)


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of a value and of the lists in it; objects have their own."""
    if is_number(value):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
