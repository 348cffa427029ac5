"""Posted documents, one at a time: a JSON list or NDJSON lines become `Incoming`, and what is wrong with one becomes its `Rejected`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from indexer.domain.documents import Incoming, Rejected
from model.errors import InvalidInput, InvalidJson, RetrievalError, TooLarge
from model.types import Limits
from service.http.problems import not_json
from service.inputs import images, inputs
from service.schemas.documents import DocumentIn
from service.schemas.validation import invalid
from service.settings import Settings

_PAUSE_EVERY = 32  # documents between two turns of the event loop: decoding base64 takes it otherwise

_document = TypeAdapter(DocumentIn)

_LIST_BEGINS = re.compile(r'[ \t\r\n]*(\{[ \t\r\n]*"documents"[ \t\r\n]*:[ \t\r\n]*)?\[[ \t\r\n]*')
_LIST_GOES_ON = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_LIST_ENDS = re.compile(r"[ \t\r\n]*\][ \t\r\n]*")
_OBJECT_ENDS = re.compile(r"[ \t\r\n]*\][ \t\r\n]*\}[ \t\r\n]*")
_PYTHONS = json.JSONDecoder(parse_int=float)  # to int it turns no more than some thousand digits


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one posted document may be, and how many of them."""

    limits: Limits
    max_metadata_bytes: int
    max_metadata_depth: int
    max_documents: int
    max_line_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        return cls(
            settings.limits,
            settings.max_metadata_bytes,
            settings.max_metadata_depth,
            settings.max_documents_per_call,
            settings.max_body_bytes,
        )


def documents_in(body: bytes, bounds: Bounds) -> list[Any]:
    """The documents of a JSON body, not yet looked at; one that is no JSON, such as one with NaN, is its error.

    Raises what is wrong with the body as a whole.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        value = _apart(body, bounds.max_documents)
        if value is None:
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
    for position, value in enumerate(values):
        if position % _PAUSE_EVERY == 0:
            await asyncio.sleep(0)
        yield incoming(position, value, bounds)


async def each_line(stream: AsyncIterator[bytes], bounds: Bounds) -> AsyncIterator[Incoming | Rejected]:
    """NDJSON as it arrives. A position is that of the line from 0; blank lines have theirs, and are no documents."""
    position = 0
    async for line in _lines(stream, bounds.max_line_bytes):
        if line is None or line.strip():
            yield _of_line(position, line, bounds)
        position += 1
        if position % _PAUSE_EVERY == 0:
            await asyncio.sleep(0)


def incoming(position: int, value: Any, bounds: Bounds) -> Incoming | Rejected:
    """One document checked as far as that goes without decoding its image."""
    given_id = value.get("id") if isinstance(value, dict) else None
    shown_id = given_id[:512] if isinstance(given_id, str) else None
    try:
        if isinstance(value, InvalidJson):
            raise value
        document = _document.validate_python(value)
        return _checked(position, document, bounds)
    except ValidationError as error:
        wrong: RetrievalError = invalid(error.errors(include_url=False))
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


def _check_metadata(metadata: dict[str, Any], bounds: Bounds) -> None:
    # Depth first: orjson writes no more than 254 levels, and says so with an error of its own.
    if (depth := _depth(metadata)) > bounds.max_metadata_depth:
        raise TooLarge(f"metadata is nested {depth} deep, limit is {bounds.max_metadata_depth}", field="metadata")
    if (size := len(orjson.dumps(metadata))) > bounds.max_metadata_bytes:
        raise TooLarge(f"metadata has {size} bytes as JSON, limit is {bounds.max_metadata_bytes}", field="metadata")


def _depth(value: Any) -> int:
    """Without recursion: the parser lets a thousand levels through."""
    deepest, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        deepest += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return deepest


def _of_line(position: int, line: bytes | None, bounds: Bounds) -> Incoming | Rejected:
    if line is None:
        return Rejected(position, None, TooLarge.code, f"the line is over {bounds.max_line_bytes} bytes")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        value = not_json("the line", error)
    return incoming(position, value, bounds)


def _apart(body: bytes, max_documents: int) -> list[Any] | None:
    """The documents of a list in which strict JSON and what Python takes for it are side by side; None for any other body.

    Python's parser, which takes NaN, says where each ends. What it makes of them is not used: it takes more than NaN.
    """
    documents: list[Any] = []
    try:
        text = body.decode()
        begin = _LIST_BEGINS.match(text)
        ends = _OBJECT_ENDS if begin and begin[1] else _LIST_ENDS
        while begin is not None and len(documents) < max_documents:
            _, end = _PYTHONS.raw_decode(text, begin.end())
            documents.append(_strict(text[begin.end() : end]))
            if ends.fullmatch(text, end):
                return documents
            begin = _LIST_GOES_ON.match(text, end)
    except (ValueError, RecursionError):
        pass
    return None


def _strict(document: str) -> Any:
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError as error:
        return not_json("the document", error)


async def _lines(stream: AsyncIterator[bytes], max_line_bytes: int) -> AsyncIterator[bytes | None]:
    """The lines; None in place of one over the limit, of which no more than the limit is ever held."""
    pending = bytearray()
    skipping = False
    async for chunk in stream:
        *complete, rest = chunk.split(b"\n")
        for part in complete:
            pending += part
            too_long, skipping = skipping or len(pending) > max_line_bytes, False
            yield None if too_long else bytes(pending)
            pending.clear()
        skipping = skipping or len(pending) + len(rest) > max_line_bytes
        pending = bytearray() if skipping else pending + rest
    if skipping or pending:
        yield None if skipping else bytes(pending)
