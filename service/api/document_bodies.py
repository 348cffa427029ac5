"""Posted documents, one at a time: a JSON list or NDJSON lines become `Incoming`, and what is wrong with one becomes
its `Rejected`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from indexer.domain.documents import Incoming, Rejected
from indexer.domain.incoming import DocumentBounds, incoming, shown_id
from model.errors import InvalidInput, RetrievalError, TooLarge
from service.http.json_body import check_encoding, read_apart, read_json
from service.http.problems import not_json
from service.settings import Settings

# `incoming` or `update`.
ReadDocument = Callable[[int, Any, DocumentBounds], Incoming]

# Others have a turn of the event loop after so long at the latest.
_TURN_S = 0.01


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a post: its documents, their number, and the length of a line."""

    document: DocumentBounds
    max_documents: int
    max_line_bytes: int
    max_values: int

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        return cls(
            settings.document_bounds,
            settings.http.max_documents_per_call,
            settings.http.max_body_bytes,
            settings.http.max_documents_values,
        )


def documents_in(body: bytes, bounds: Bounds) -> list[Any]:
    """Return the documents of a JSON body, unchecked. Raises what is wrong with the body as a whole."""
    return list_in(value_in(body, bounds), bounds)


def value_in(body: bytes, bounds: Bounds) -> Any:
    """Return what stands in a JSON body. Raises what is wrong with the body as a whole."""
    try:
        return read_json(body, bounds.max_values)
    except orjson.JSONDecodeError as error:
        raise not_json("the body", error) from error


def list_in(value: Any, bounds: Bounds) -> list[Any]:
    """Return the documents of a body that is a list of them, or an object that holds the list."""
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


async def each(values: list[Any], bounds: Bounds, read: ReadDocument = incoming) -> AsyncIterator[Incoming | Rejected]:
    turns = _Turns()
    for position, value in enumerate(values):
        if turns.due():
            await turns.give()
        yield document_or_rejection(position, value, bounds.document, read)


async def each_line(
    stream: AsyncIterator[bytes], bounds: Bounds, read: ReadDocument = incoming
) -> AsyncIterator[Incoming | Rejected]:
    """Yield the documents of an NDJSON body as it arrives. A position is the line number, counted from 0; blank lines
    count but are no documents."""
    position = 0
    turns = _Turns()
    async for lines in _lines(stream, bounds.max_line_bytes):
        for line in lines:
            if line is None:
                yield Rejected(position, None, TooLarge.code, f"the line is over {bounds.max_line_bytes} bytes")
            elif line and not line.isspace():
                if position == 0:
                    check_encoding(line)
                yield await read_apart(partial(_of_line, position, bounds, read), line)
            position += 1
            if turns.due():
                await turns.give()


def document_or_rejection(
    position: int, value: Any, bounds: DocumentBounds, read: ReadDocument = incoming
) -> Incoming | Rejected:
    """Return a document that is accepted, or why it is not."""
    try:
        if isinstance(value, RetrievalError):
            raise value
        return read(position, value, bounds)
    except RetrievalError as error:
        return Rejected(position, shown_id(value), error.code, error.detail)


class _Turns:
    """Gives the other callers their turn of the event loop when this one has had it for long."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._since > _TURN_S

    async def give(self) -> None:
        await asyncio.sleep(0)
        self._since = time.monotonic()


def _of_line(position: int, bounds: Bounds, read: ReadDocument, line: bytes) -> Incoming | Rejected:
    try:
        value = read_json(line, bounds.max_values)
    except orjson.JSONDecodeError as error:
        value = not_json("the line", error)
    except InvalidInput as error:
        value = error
    return document_or_rejection(position, value, bounds.document, read)


async def _lines(stream: AsyncIterator[bytes], max_line_bytes: int) -> AsyncIterator[list[bytes | None]]:
    """Yield the lines that each chunk ends, None for a line over the limit.

    No more than the limit of a line and one chunk are ever in memory.
    """
    pending = bytearray()
    skipping = False
    async for chunk in stream:
        first, *complete = chunk.split(b"\n")
        skipping = skipping or len(pending) + len(first) > max_line_bytes
        if skipping:
            pending = bytearray()
        else:
            pending += first
        if complete:
            remainder = complete.pop()
            lines: list[bytes | None] = [None if skipping else bytes(pending)]
            lines += [line if len(line) <= max_line_bytes else None for line in complete]
            skipping = len(remainder) > max_line_bytes
            pending = bytearray() if skipping else bytearray(remainder)
            yield lines
    if skipping or pending:
        yield [None if skipping else bytes(pending)]
