"""POST /collections/{name}/imports."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import orjson
import structlog
from fastapi import APIRouter
from starlette.responses import Response

from indexer.imports.planner import format_of
from service.api.job_answers import IdempotencyKey
from service.api.serializers import CollectionPath, job_wire
from service.components import PartsOf
from service.http.responses import Json, StrictRoute
from service.schemas.documents import ImportIn
from service.schemas.jobs import JobAcceptedOut

router = APIRouter(route_class=StrictRoute, tags=["documents"])


@router.post("/collections/{name}/imports", status_code=202, response_model=JobAcceptedOut)
async def start_import(
    name: CollectionPath, body: ImportIn, parts: PartsOf, idempotency_key: IdempotencyKey = None
) -> Response:
    """Index the documents in files: in a folder, an object store or on a web server, within `import_roots`.

    Errors that can be seen at once are answered at once. The files are read while the job runs, as if their documents
    were posted one after the other: where a document is posted meanwhile, the later write wins.
    """
    collection = await parts.catalog.compatible(name)
    source = _source(body)
    body_hash = hashlib.sha256(orjson.dumps(source, option=orjson.OPT_SORT_KEYS)).hexdigest()
    job = None
    if idempotency_key is not None:  # the files of a known request may be gone by now
        job = await parts.ledger.imports.find(collection.name, idempotency_key, body_hash)
    if job is None:
        await asyncio.to_thread(parts.imports.check, **source)
        keyed = {"idempotency_key": idempotency_key, "body_hash": body_hash}
        job = await parts.ledger.imports.accept(collection.name, source, **keyed)
        parts.wakeups.work_arrived()
    structlog.contextvars.bind_contextvars(job=job.id)
    return Json({"job": job_wire(job)}, 202)


def _source(body: ImportIn) -> dict[str, Any]:
    return {**body.model_dump(exclude_none=True), "format": body.format or format_of(body.uri)}
