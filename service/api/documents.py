"""Documents in, out and away: POST /collections/{name}/documents and what lies under it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from indexer import filters
from indexer.blobs.thumbnails import Keep
from indexer.domain.documents import ThumbnailWidth
from indexer.domain.incoming import DocumentIn
from indexer.domain.jobs import Job, Outcome
from indexer.domain.samples import DOCUMENTS
from indexer.domain.validation import brief
from indexer.intake import Accepted
from model.errors import NotFound
from model.images.formats import image_format
from service.api import document_bodies
from service.api.serializers import CollectionPath, DocumentPath, job_wire
from service.components import Parts, PartsOf
from service.http.json_body import read_apart
from service.http.middleware.api_keys import CallerOf
from service.http.middleware.limits import NDJSON, media_type
from service.http.middleware.security_headers import NOTHING
from service.http.problems import JSON, content_type_error
from service.http.responses import Json, StrictRoute
from service.schemas.base import schema_of
from service.schemas.documents import AcceptedOut, DeleteIn
from service.schemas.hits import ContentView, DocumentOut, wire
from service.schemas.jobs import JobAcceptedOut
from service.search.hits import name_for
from service.search.query import stored_points

router = APIRouter(route_class=StrictRoute, tags=["documents"])

Wait = Annotated[
    bool,
    Query(description="answer when the job is done, or with 202 when `wait_timeout_s` is over first", examples=[True]),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        max_length=255,
        description="a repeated key returns the job of the first request instead of a new one",
        examples=["load-2025-10-09"],
    ),
]
WithVector = Annotated[bool, Query(description="whether the answer holds the embedding", examples=[False])]
ImageVersion = Annotated[
    str,
    Query(
        description="the beginning of the image's SHA-256, as `image_url` has it: with it the answer may be cached "
        "for good",
        examples=["9f86d081884c7d65"],
    ),
]
ImageWidth = Annotated[
    ThumbnailWidth | None,
    Query(
        description="for a thumbnail instead: at most so many pixels wide and high, upright, a JPEG unless the image "
        "itself is no larger",
        examples=[256],
    ),
]

_DOCUMENT = schema_of(DocumentIn)
_LIST = {"type": "array", "items": _DOCUMENT}
_OBJECT = {
    "type": "object",
    "properties": {"documents": {**_LIST, "description": "the documents"}},
    "required": ["documents"],
    "additionalProperties": False,
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"anyOf": [_LIST, _OBJECT]}, "example": DOCUMENTS},
            NDJSON: {"schema": _DOCUMENT},
        },
    }
}


@router.post(
    "/collections/{name}/documents",
    status_code=202,
    response_model=AcceptedOut,
    responses={200: {"model": AcceptedOut, "description": "with `wait=true`: every document has its result"}},
    openapi_extra=_BODY,
)
async def post_documents(
    name: CollectionPath, request: Request, parts: PartsOf, wait: Wait = False, idempotency_key: IdempotencyKey = None
) -> Response:
    """Accept documents: up to `max_documents_per_call` in JSON, any number in NDJSON. One bad document fails alone.

    The answer comes when the documents are on disk. With an `Idempotency-Key`, the body must be the same each time,
    byte by byte. At most `max_documents_per_call` of the rejected documents are listed; `rejected_count` counts all.
    """
    kind = media_type(request.headers)
    if kind not in (JSON, NDJSON):
        raise content_type_error(kind, (JSON, NDJSON))
    collection = await parts.catalog.compatible(name)
    bounds = document_bodies.Bounds.of(parts.settings)
    body_hash = hashlib.sha256()
    if kind == NDJSON:
        documents = document_bodies.each_line(_seen(request.stream(), body_hash.update), bounds)
    else:
        body = await request.body()
        values = await read_apart(partial(document_bodies.documents_in, bounds=bounds), body)
        documents = document_bodies.each(values, bounds)
        await read_apart(body_hash.update, body)
    accepted = await parts.intake.accept(
        collection,
        documents,
        idempotency_key=idempotency_key,
        body_hash=body_hash.hexdigest,
        max_rejected=bounds.max_documents,
    )
    for code, count in accepted.rejected_codes.items():
        parts.metrics.rejected_documents.labels(code).inc(count)
    return await _accepted(parts, accepted, wait)


@router.post(
    "/collections/{name}/documents/delete",
    status_code=202,
    response_model=JobAcceptedOut,
    responses={200: {"model": JobAcceptedOut}},
)
async def delete_documents(name: CollectionPath, body: DeleteIn, parts: PartsOf, wait: Wait = False) -> Response:
    """Delete documents by id, where unknown ids do no harm, or by a filter on their metadata.

    The filter is evaluated at once: the job deletes the documents in the index that fulfil it when the request is
    accepted, by their ids, after every write accepted before and before those that follow. Documents that wait for
    their first indexing are not seen: wait for their jobs first. The answer comes when all ids are on disk.
    """
    if body.filter is None:
        return await _delete(parts, name, body.ids or [], wait)
    collection = await parts.catalog.get(name)
    condition = body.filter
    filters.check_types(condition, collection.indexes)
    points = parts.catalog.points(collection)
    return await _deleting(parts, await parts.intake.delete_matching(collection, points, condition), wait)


@router.get("/collections/{name}/documents/{id}", response_model=DocumentOut)
async def get_document(
    name: CollectionPath, document_id: DocumentPath, parts: PartsOf, caller: CallerOf, with_vector: WithVector = False
) -> Response:
    """Return one document as it is stored."""
    collection = await parts.catalog.get(name)
    (point,) = await stored_points(parts.catalog.points(collection), collection.name, [document_id])
    view = ContentView(point, name_for(caller, name, collection.name), with_vector=with_vector)
    return Json(wire(DocumentOut, view))


@router.delete(
    "/collections/{name}/documents/{id}",
    status_code=202,
    response_model=JobAcceptedOut,
    responses={200: {"model": JobAcceptedOut}},
)
async def delete_document(
    name: CollectionPath, document_id: DocumentPath, parts: PartsOf, wait: Wait = False
) -> Response:
    """Delete one document. An unknown id does no harm."""
    return await _delete(parts, name, [document_id], wait)


@router.get(
    "/collections/{name}/documents/{id}/image",
    response_class=Response,
    responses={
        200: {
            "content": {"image/*": {}},
            "description": "the image file as it is kept, by setting as it was posted; with `width` its thumbnail",
        },
        304: {"description": "unchanged"},
    },
)
async def get_image(
    name: CollectionPath,
    document_id: DocumentPath,
    request: Request,
    parts: PartsOf,
    v: ImageVersion = "",
    width: ImageWidth = None,
) -> Response:
    """Return the image as it is stored, or its thumbnail. With the `v` of an `image_url` it may be cached for good,
    without it must be revalidated.

    Thumbnails are drawn when they are first asked for, and kept beside the image until that is deleted.
    """
    collection = await parts.catalog.get(name)
    (point,) = await stored_points(parts.catalog.points(collection), collection.name, [document_id])
    digest = point.image_digest
    if digest is None:
        no_images = parts.settings.keep.keep is Keep.NONE
        why = "; this service keeps none (RET2_KEEP_IMAGES=none)" if no_images else ""
        raise NotFound(f"document {document_id!r:.100} has no image{why}", field="id", value=document_id)
    is_current = len(v) >= 16 and digest.startswith(v)
    etag = f'"{digest}"' if width is None else f'"{digest}-{width}"'
    caching = "private, max-age=31536000, immutable" if is_current else "private, no-cache"
    headers = {"etag": etag, "cache-control": caching}
    headers["vary"] = "authorization, x-api-key"
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await (parts.blobs.get(digest) if width is None else parts.thumbnails.get(digest, width))
    known_format = image_format(data)
    # The bytes are untrusted: no browser may take them for anything but what they are.
    headers |= {"content-security-policy": f"{NOTHING}; sandbox"}
    headers |= {} if known_format is not None and known_format.browser_safe else {"content-disposition": "attachment"}
    media_type = "application/octet-stream" if known_format is None else known_format.media_type
    return Response(data, headers=headers, media_type=media_type)


async def _seen(stream: AsyncIterator[bytes], take: Callable[[bytes], object]) -> AsyncIterator[bytes]:
    async for chunk in stream:
        take(chunk)
        yield chunk


async def _accepted(parts: Parts, accepted: Accepted, wait: bool) -> Response:
    rejected = [
        {"position": document.position, "id": document.id, "code": document.code, "detail": brief(document.detail)}
        for document in accepted.rejected
    ]
    job = await _awaited(parts, accepted.job, wait)
    wire: dict[str, Any] = {
        "job": job_wire(job),
        "rejected": rejected,
        "rejected_count": accepted.rejected_codes.total(),
    }
    if not (wait and job.state.finished):
        return Json(wire, 202)
    pages = parts.ledger.jobs.results(job.id)
    first: list[Outcome] = await anext(pages, [])  # before the answer begins: it may be that the ledger does not answer
    return StreamingResponse(_with_results(parts, wire, first, pages), media_type=JSON)


async def _with_results(
    parts: Parts, wire: dict[str, Any], page: list[Outcome], pages: AsyncIterator[list[Outcome]]
) -> AsyncIterator[bytes]:
    """Stream one JSON object, with one page of the results in memory at a time."""
    yield orjson.dumps(wire)[:-1] + b',"results":['
    while page:
        following: list[Outcome] = await anext(pages, [])
        yield orjson.dumps([_result(outcome) for outcome in page])[1:-1] + (b"," if following else b"")
        page = following
    yield b"]}"


async def _delete(parts: Parts, name: str, document_ids: list[str], wait: bool) -> Response:
    collection = await parts.catalog.get(name)
    return await _deleting(parts, await parts.intake.delete(collection, document_ids), wait)


async def _deleting(parts: Parts, accepted: Job, wait: bool) -> Response:
    job = await _awaited(parts, accepted, wait)
    return Json({"job": job_wire(job)}, 200 if wait and job.state.finished else 202)


async def _awaited(parts: Parts, job: Job, wait: bool) -> Job:
    """Return the job when it is finished, or as it is when the time is over or this process stops."""
    if not wait or job.state.finished:
        return job
    done = asyncio.ensure_future(parts.progress.wait(job.id, parts.settings.wait_timeout_s))
    stopping = asyncio.ensure_future(parts.draining.wait())
    try:
        await asyncio.wait({done, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else job
    finally:
        done.cancel()
        stopping.cancel()


def _result(result: Outcome) -> dict[str, Any]:
    wire = {"id": result.document_id, "status": result.status}
    return {**wire, "error": {"code": result.code, "detail": brief(result.detail or "")}} if result.code else wire
