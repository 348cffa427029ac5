"""Documents in, out and away: POST /collections/{name}/documents and what lies under it."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from indexer import filters
from indexer.blobs.thumbnails import Keep
from indexer.domain.documents import ThumbnailWidth
from indexer.domain.incoming import MAX_IMAGES, DocumentIn
from indexer.domain.samples import DOCUMENTS
from model.errors import NotFound
from model.images.formats import image_format
from service.api import document_bodies
from service.api.job_answers import IdempotencyKey, Wait, accepted_answer, job_answer, seen
from service.api.serializers import CollectionPath, DocumentPath
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

WithVector = Annotated[bool, Query(description="whether the answer holds the embedding", examples=[False])]
ImageVersion = Annotated[
    str,
    Query(
        description="the beginning of the image's SHA-256, as `image_url` has it: with it the answer may be cached "
        "for good",
        examples=["9f86d081884c7d65"],
    ),
]
ImageNumber = Annotated[
    int, Query(ge=0, lt=MAX_IMAGES, description="which image of the document, from 0", examples=[0])
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
            NDJSON: {"schema": {"type": "string", "format": "binary", "description": "a document in each line"}},
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
        documents = document_bodies.each_line(seen(request.stream(), body_hash.update), bounds)
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
    return await accepted_answer(parts, accepted, wait)


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
    return await job_answer(parts, await parts.intake.delete_matching(collection, points, condition), wait)


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
    n: ImageNumber = 0,
    width: ImageWidth = None,
) -> Response:
    """Return the image as it is stored, or its thumbnail. With the `v` of an `image_url` it may be cached for good,
    without it must be revalidated.

    Thumbnails are drawn when they are first asked for, and kept beside the image until that is deleted.
    """
    collection = await parts.catalog.get(name)
    (point,) = await stored_points(parts.catalog.points(collection), collection.name, [document_id])
    if n >= len(point.digests):
        no_images = parts.settings.keep.keep is Keep.NONE
        why = "; this service keeps none (RET2_KEEP_IMAGES=none)" if no_images else ""
        count = f"no image {n}; counted from 0 it has {len(point.digests)}" if n else "no image"
        raise NotFound(f"document {document_id!r:.100} has {count}{why}", field="id", value=document_id)
    digest = point.digests[n]
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


async def _delete(parts: Parts, name: str, document_ids: list[str], wait: bool) -> Response:
    collection = await parts.catalog.get(name)
    return await job_answer(parts, await parts.intake.delete(collection, document_ids), wait)
