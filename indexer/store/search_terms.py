"""Values that the engines would compare otherwise than filters promise, stored a second time as search terms.

Engines cut and fold text their own way, and they hold whole numbers as signed 64-bit integers. So the words of a field
with text beyond ASCII, and numbers from 2^63 on, are stored as keywords too, beside the field in the object that holds
it:

    {"name": "Café", "KEY": {"name": ["café"]}}

KEY stands for a name with a control character, which keeps the terms apart from the metadata that callers know.
`without_terms` takes them away again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.filters.words import words

TERMS = "\x01terms"
SIGNED_END = 2**63


def with_terms(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata with the search terms of its fields, at every depth."""
    stored = {key: _stored(value) for key, value in metadata.items() if key != TERMS}
    terms = {key: value_terms for key, value in metadata.items() if (value_terms := _terms(value))}
    return {**stored, TERMS: terms} if terms else stored


def without_terms(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata as it was posted."""
    return {key: _posted(value) for key, value in stored.items() if key != TERMS}


def number_term(number: int) -> str:
    """Return the term of a whole number. No word has an equals sign."""
    return f"={number}"


def _stored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return with_terms(value)
    return [_stored(part) for part in value] if isinstance(value, list | tuple) else value


def _posted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_terms(value)
    return [_posted(part) for part in value] if isinstance(value, list | tuple) else value


def _terms(value: Any) -> list[str]:
    """Return the terms of a field, none where the engines compare its values as filters promise."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = [part for part in values if isinstance(part, str)]
    numbers = [part for part in values if type(part) is int and part >= SIGNED_END]
    if not numbers and all(text.isascii() for text in texts):
        return []
    return sorted({number_term(number) for number in numbers}.union(*map(words, texts)))
