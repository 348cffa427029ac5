"""The model of an incoming document: posts, `ret2 load` and imports read documents with it, so that its fields, bounds
and messages are the same wherever a document comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ConfigDict, Field, ValidationError

from indexer.domain.bodies import examples
from indexer.domain.documents import Incoming
from indexer.domain.inputs import InputIn, check_text, check_unicode, image_source
from indexer.domain.names import DocumentId
from indexer.domain.samples import DOCUMENTS
from indexer.domain.validation import invalid, shown
from indexer.filters.nodes import MAX_PATH_CHARS, can_be_named
from indexer.filters.values import EXACT_INTEGERS, WHOLE_NUMBERS
from model.errors import InvalidInput, TooLarge
from model.settings import setting
from model.types import Limits

# Beside the metadata, which has bounds of its own.
_MAX_DEPTH, _MAX_FIELDS = 100, 100
_SHOWN_CHARS = 100


class DocumentIn(InputIn):
    """A document to index. Without an id it gets one that derives from its content."""

    model_config = ConfigDict(json_schema_extra=examples(*DOCUMENTS))

    id: DocumentId | None = Field(None, description="the document's id; by default it derives from the content")
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else about the document, to filter by and to show; whole numbers have at most 64 bits",
    )


FIELDS = tuple(DocumentIn.model_fields)


@dataclass(frozen=True, slots=True)
class DocumentBounds:
    """The limits of one document."""

    limits: Limits = field(default_factory=Limits)
    max_metadata_bytes: int = setting(64 * 1024, "max_metadata_bytes", "one document's metadata as JSON", gt=0)
    max_metadata_depth: int = setting(8, "max_metadata_depth", "nesting of one document's metadata", gt=0)


def incoming(position: int, value: Any, bounds: DocumentBounds) -> Incoming:
    """Return a document that was posted or read from a file, checked as far as that goes without decoding its image.

    Raise `InvalidInput` or `TooLarge` for what is wrong with it.
    """
    document = _parsed(value)
    check_text(document.text, bounds.limits)
    check_unicode(document.text or "", "text", "text")
    _check_metadata(document.metadata, bounds)
    source = None if document.image is None else image_source(document.image, bounds.limits)
    return Incoming(
        position=position,
        id=document.id,
        text=document.text or None,
        image=source if isinstance(source, bytes) else None,
        image_url=source if isinstance(source, str) else None,
        metadata=document.metadata,
    )


def check_document(value: Any) -> None:
    """Raise `InvalidInput` for what is no document whatever the bounds are."""
    document = _parsed(value)
    check_unicode(document.text or "", "text", "text")
    json_bytes(document.metadata)


def _parsed(value: Any) -> DocumentIn:
    if not isinstance(value, dict):
        raise InvalidInput(f"a document is an object, this is {shown(value)!r}")
    _check_form(value)
    unknown = next((name for name in value if name not in FIELDS), None)
    if unknown is not None:
        raise InvalidInput(
            f"unknown field {unknown!r:.{_SHOWN_CHARS}}: a document has {', '.join(FIELDS)}; anything else belongs in "
            "its metadata, where the mapping of an import can put it",
            field=str(unknown)[:_SHOWN_CHARS],
        )
    try:
        document = DocumentIn.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from error
    return document


def shown_id(value: Any) -> str | None:
    """Return the id of a document that is not accepted, for messages."""
    identifier = value.get("id") if isinstance(value, dict) else None
    return identifier[:512] if isinstance(identifier, str) else None


def _check_form(value: Any) -> None:
    """Refuse what would take validation long: thousands of fields, or lists inside lists a thousand deep."""
    depth, level = 0, [value]
    while level:
        if (depth := depth + 1) > _MAX_DEPTH:
            raise InvalidInput(f"the document is nested over {_MAX_DEPTH} deep beside its metadata")
        inner: list[Any] = []
        for part in level:
            if isinstance(part, dict | list) and len(part) > _MAX_FIELDS:
                raise InvalidInput(f"{len(part)} fields or values beside the metadata, limit is {_MAX_FIELDS}")
            if isinstance(part, dict):
                inner += [member for name, member in part.items() if name != "metadata"]
            elif isinstance(part, list):
                inner += part
        level = inner


# --- metadata


def _check_metadata(metadata: dict[str, Any], bounds: DocumentBounds) -> None:
    # Depth first: orjson writes no more than 254 levels, and says so with an error of its own.
    if (depth := nesting(metadata)) > bounds.max_metadata_depth:
        raise TooLarge(f"metadata is nested {depth} deep, limit is {bounds.max_metadata_depth}", field="metadata")
    if (size := json_bytes(metadata)) > bounds.max_metadata_bytes:
        raise TooLarge(f"metadata has {size} bytes as JSON, limit is {bounds.max_metadata_bytes}", field="metadata")
    _check_keys(metadata)


def _check_keys(metadata: dict[str, Any]) -> None:
    """Refuse keys that no filter could name."""
    values: list[Any] = [metadata]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            for key in value:
                if not can_be_named(key):
                    raise InvalidInput(
                        f"metadata has the key {shown(key)!r}: a key has 1 to {MAX_PATH_CHARS} characters, "
                        "none of them a double quote or a backslash, so that filters can name it",
                        field="metadata",
                        value=shown(key),
                    )
            values += value.values()
        elif isinstance(value, list):
            values += value


def nesting(value: Any) -> int:
    """Return how deep lists and objects are nested, without recursion: the parser lets a thousand levels through."""
    deepest, level = 0, [value]
    while level := [value for value in level if isinstance(value, dict | list)]:
        deepest += 1
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
    return deepest


def json_bytes(metadata: dict[str, Any]) -> int:
    """Return the size of metadata as JSON. Raise `InvalidInput`, naming the field, for what JSON or a store cannot
    hold."""
    try:
        return len(orjson.dumps(metadata))
    except TypeError as error:
        raise unwritable("metadata", metadata, error) from error


def unwritable(name: str, value: Any, error: TypeError) -> InvalidInput:
    """Return why orjson does not write a value, with the place in it."""
    values: list[tuple[str, Any]] = [(name, value)]
    while values:
        path, value = values.pop()
        if isinstance(value, int) and value not in EXACT_INTEGERS:
            return InvalidInput(f"{path:.200} is {_digits(value)}, {WHOLE_NUMBERS}", field=path[:200])
        if isinstance(value, str) and not _is_unicode(value):
            return InvalidInput(f"{path:.200} has half a surrogate pair, which is no character", field=path[:200])
        if isinstance(value, dict):
            values += [(_member(path, name), inner) for name, inner in value.items()]
            values += [(path, name) for name in value if isinstance(name, str) and not _is_unicode(name)]
        elif isinstance(value, list):
            values += [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]
    return InvalidInput(f"{name} cannot be written as JSON: {error}", field=name)


def _member(path: str, name: Any) -> str:
    return f"{path}.{name}".encode("utf-8", "backslashreplace").decode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digits(number: int) -> str:
    """Return the digits of a number, or how many bits it has: Python writes no more than some thousand digits."""
    return str(number) if number.bit_length() < 256 else f"a number of {number.bit_length()} bits"
