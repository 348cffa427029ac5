"""Changes of documents that are there: PATCH /collections/{name}/documents/{id} and POST …/documents/update."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from indexer import filters
from indexer.domain.collections import Collection
from indexer.domain.documents import Incoming
from indexer.domain.incoming import PatchIn, UpdateIn, check_metadata, update
from indexer.domain.jobs import Job, JobKind
from indexer.domain.validation import invalid
from indexer.intake import each_of
from model.errors import NotFound, error_class
from service.api import document_bodies
from service.api.job_answers import UpdateKey, Wait, accepted_answer, awaited, seen
from service.api.serializers import CollectionPath, DocumentPath, job_wire
from service.components import Parts, PartsOf
from service.http.json_body import read_apart
from service.http.middleware.limits import NDJSON, media_type
from service.http.problems import JSON, content_type_error
from service.http.responses import Json, StrictRoute
from service.schemas.base import schema_of
from service.schemas.documents import AcceptedOut, UpdateMatchingIn
from service.schemas.jobs import JobAcceptedOut

router = APIRouter(route_class=StrictRoute, tags=["documents"])

_UPDATE = schema_of(UpdateIn)
_MATCHING = schema_of(UpdateMatchingIn)
_EXAMPLE = [{"id": "flag:fr/borders", "metadata": {"area_km2": 551500}}]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"anyOf": [{"type": "array", "items": _UPDATE}, _MATCHING]}, "example": _EXAMPLE},
            NDJSON: {"schema": {"type": "string", "format": "binary", "description": "an update in each line"}},
        },
    }
}


@router.patch(
    "/collections/{name}/documents/{id}",
    status_code=202,
    response_model=JobAcceptedOut,
    responses={200: {"model": JobAcceptedOut, "description": "with `wait=true`: the document has changed"}},
)
async def patch_document(
    name: CollectionPath, document_id: DocumentPath, body: PatchIn, parts: PartsOf, wait: Wait = False
) -> Response:
    """Change metadata of one document, whose text, image and embedding stay; or take its text or its image away.

    Writes of one document happen in the order in which they were accepted. A document that is neither in the index nor
    on its way there is 404.
    """
    collection = await parts.catalog.get(name)
    if body.metadata is not None:
        check_metadata(body.metadata, parts.settings.document_bounds)
    await _require_document(parts, collection, document_id)
    patch = Incoming(position=0, id=document_id, metadata=body.patch())
    accepted = await parts.intake.accept(collection, each_of([patch]), kind=JobKind.UPDATE)
    job = await awaited(parts, accepted.job, wait)
    if wait and job.failed:
        await _raise_failure(parts, job)
    return Json({"job": job_wire(job)}, 200 if wait and job.state.finished else 202)


@router.post(
    "/collections/{name}/documents/update",
    status_code=202,
    response_model=AcceptedOut,
    responses={200: {"model": AcceptedOut, "description": "with `wait=true`: every document has its result"}},
    openapi_extra=_BODY,
)
async def update_documents(
    name: CollectionPath, request: Request, parts: PartsOf, wait: Wait = False, idempotency_key: UpdateKey = None
) -> Response:
    """Change metadata of many documents: a list of changes with ids, NDJSON of them, or one change for all that fulfil
    a filter. Nothing is embedded again.

    A document that is not there is a failure of the job, and the others are done. The filter is evaluated at once, on
    the documents in the index; over `max_updated_documents` nothing is changed.
    """
    kind = media_type(request.headers)
    if kind not in (JSON, NDJSON):
        raise content_type_error(kind, (JSON, NDJSON))
    collection = await parts.catalog.get(name)
    bounds = document_bodies.Bounds.of(parts.settings)
    body_hash = hashlib.sha256()
    if kind == NDJSON:
        updates = document_bodies.each_line(seen(request.stream(), body_hash.update), bounds, update)
    else:
        body = await request.body()
        await read_apart(body_hash.update, body)
        value = await read_apart(partial(document_bodies.value_in, bounds=bounds), body)
        if isinstance(value, dict) and "filter" in value:
            key = {"idempotency_key": idempotency_key, "body_hash": body_hash.hexdigest()}
            return await _update_matching(parts, collection, value, wait, key)
        updates = document_bodies.each(document_bodies.list_in(value, bounds), bounds, update)
    accepted = await parts.intake.accept(
        collection,
        updates,
        kind=JobKind.UPDATE,
        idempotency_key=idempotency_key,
        body_hash=body_hash.hexdigest,
        max_rejected=bounds.max_documents,
    )
    return await accepted_answer(parts, accepted, wait)


async def _update_matching(
    parts: Parts, collection: Collection, value: dict[str, Any], wait: bool, key: dict[str, str | None]
) -> Response:
    try:
        body = UpdateMatchingIn.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from error
    filters.check_types(body.filter, collection.indexes)
    check_metadata(body.metadata, parts.settings.document_bounds)
    points, bounds = parts.catalog.points(collection), parts.settings.http
    # The ledger holds the patch once for each document, as a stream of updates would.
    size_bytes = len(orjson.dumps(body.metadata))
    limit = min(bounds.max_updated_documents, bounds.max_stream_bytes // max(1, size_bytes))
    patch = {"metadata": body.metadata}
    job = await parts.intake.update_matching(collection, points, body.filter, patch, limit, **key)
    answer = await awaited(parts, job, wait)
    return Json(
        {"job": job_wire(answer), "rejected": [], "rejected_count": 0}, 200 if wait and answer.state.finished else 202
    )


async def _require_document(parts: Parts, collection: Collection, document_id: str) -> None:
    """Raise `NotFound` for a document that is neither in the index nor on its way there."""
    if await parts.ledger.jobs.write_is_pending(collection.name, document_id):
        return
    (point,) = await parts.catalog.points(collection).fetch([document_id], with_vectors=False)
    if point is None:
        raise NotFound(
            f"there is no document {document_id!r:.100} in collection {collection.name!r}: post it",
            field="id",
            value=document_id,
        )


async def _raise_failure(parts: Parts, job: Job) -> None:
    """Raise the failure of a job of one document as the error of its call."""
    for failure in await parts.ledger.jobs.failures(job.id):
        raise error_class(failure.code, 500)(failure.detail)
