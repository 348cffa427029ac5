"""Posted documents, one at a time: a JSON list or NDJSON lines become `Incoming`, and what is wrong with one becomes
its `Rejected`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from indexer.domain.documents import Incoming, Rejected
from model.errors import InvalidInput, RetrievalError, TooLarge
from model.types import Limits
from service.http.json_body import read_json
from service.http.problems import not_json
from service.inputs import images, inputs
from service.schemas.documents import DocumentIn
from service.schemas.validation import invalid
from service.settings import Settings

# Others have a turn of the event loop after so long at the latest.
_TURN_S = 0.01

_document = TypeAdapter(DocumentIn)

_MAX_DEPTH, _MAX_FIELDS = 100, 100


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one posted document may be, and how many of them."""

    limits: Limits
    max_metadata_bytes: int
    max_metadata_depth: int
    max_documents: int
    max_line_bytes: int
    max_values: int = 1_000_000

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        return cls(
            settings.limits,
            settings.max_metadata_bytes,
            settings.max_metadata_depth,
            settings.max_documents_per_call,
            settings.max_body_bytes,
            settings.max_documents_values,
        )


def documents_in(body: bytes, bounds: Bounds) -> list[Any]:
    """Return the documents of a JSON body, unchecked. Raises what is wrong with the body as a whole."""
    try:
        value = read_json(body, bounds.max_values)
    except orjson.JSONDecodeError as error:
        raise not_json("the body", error) from error
    if isinstance(value, dict):
        if unknown := [key for key in value if key != "documents"]:
            raise InvalidInput(
                f"the body has the unknown field {unknown[0]!r:.100}; it holds documents alone", field=unknown[0]
            )
        value = value.get("documents")
    if not isinstance(value, list):
        raise InvalidInput('the body must be a list of documents or {"documents": [...]}', field="documents")
    if len(value) > bounds.max_documents:
        raise TooLarge(
            f"{len(value)} documents in one call, limit is {bounds.max_documents}; send several calls, or NDJSON",
            field="documents",
            value=len(value),
            limit=bounds.max_documents,
        )
    return value


async def each(values: list[Any], bounds: Bounds) -> AsyncIterator[Incoming | Rejected]:
    turns = _Turns()
    for position, value in enumerate(values):
        await turns.give()
        yield incoming(position, value, bounds)


async def each_line(stream: AsyncIterator[bytes], bounds: Bounds) -> AsyncIterator[Incoming | Rejected]:
    """NDJSON as it arrives. A position is that of the line from 0; blank lines have theirs, and are no documents."""
    position = 0
    turns = _Turns()
    async for line in _lines(stream, bounds.max_line_bytes):
        if line is None or line.strip():
            yield _of_line(position, line, bounds)
        position += 1
        await turns.give()


def incoming(position: int, value: Any, bounds: Bounds) -> Incoming | Rejected:
    """One document checked as far as that goes without decoding its image."""
    given_id = value.get("id") if isinstance(value, dict) else None
    shown_id = given_id[:512] if isinstance(given_id, str) else None
    try:
        if isinstance(value, RetrievalError):
            raise value
        _check_form(value)
        document = _document.validate_python(value)
        return _checked(position, document, bounds)
    except ValidationError as error:
        wrong: RetrievalError = invalid(error)
    except RetrievalError as error:
        wrong = error
    return Rejected(position, shown_id, wrong.code, wrong.detail)


def _checked(position: int, document: DocumentIn, bounds: Bounds) -> Incoming:
    inputs.check_text(document.text, bounds.limits)
    _check_metadata(document.metadata, bounds)
    source = None if document.image is None else images.source(document.image, bounds.limits)
    return Incoming(
        position=position,
        id=document.id,
        text=document.text or None,
        image=source if isinstance(source, bytes) else None,
        image_url=source if isinstance(source, str) else None,
        metadata=document.metadata,
    )


class _Turns:
    """Gives the other callers their turn of the event loop when this one has had it for long."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def give(self) -> None:
        if time.monotonic() - self._since > _TURN_S:
            await asyncio.sleep(0)
            self._since = time.monotonic()


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


def _check_metadata(metadata: dict[str, Any], bounds: Bounds) -> None:
    # Depth first: orjson writes no more than 254 levels, and says so with an error of its own.
    if (depth := _depth(metadata)) > bounds.max_metadata_depth:
        raise TooLarge(f"metadata is nested {depth} deep, limit is {bounds.max_metadata_depth}", field="metadata")
    if (size := len(orjson.dumps(metadata))) > bounds.max_metadata_bytes:
        raise TooLarge(f"metadata has {size} bytes as JSON, limit is {bounds.max_metadata_bytes}", field="metadata")


def _depth(value: Any) -> int:
    """Without recursion: the parser lets a thousand levels through."""
    deepest, level = 0, [value]
    while level := [value for value in level if isinstance(value, dict | list)]:
        deepest += 1
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
    return deepest


def _of_line(position: int, line: bytes | None, bounds: Bounds) -> Incoming | Rejected:
    if line is None:
        return Rejected(position, None, TooLarge.code, f"the line is over {bounds.max_line_bytes} bytes")
    try:
        value = read_json(line, bounds.max_values)
    except orjson.JSONDecodeError as error:
        value = not_json("the line", error)
    except TooLarge as error:
        value = error
    return incoming(position, value, bounds)


async def _lines(stream: AsyncIterator[bytes], max_line_bytes: int) -> AsyncIterator[bytes | None]:
    """The lines; None in place of one over the limit, of which no more than the limit is ever held."""
    pending = bytearray()
    skipping = False
    async for chunk in stream:
        *complete, remainder = chunk.split(b"\n")
        for part in complete:
            pending += part
            too_long, skipping = skipping or len(pending) > max_line_bytes, False
            yield None if too_long else bytes(pending)
            pending.clear()
        skipping = skipping or len(pending) + len(remainder) > max_line_bytes
        if skipping:
            pending = bytearray()
        else:
            pending += remainder
    if skipping or pending:
        yield None if skipping else bytes(pending)
