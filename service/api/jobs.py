"""GET /jobs, /jobs/{id} with its failures and events; POST /jobs/{id}/cancel and /retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from indexer.domain.jobs import JobKind, JobState
from indexer.ledger.rows import no_job
from model.errors import Forbidden
from service.api.serializers import job_wire
from service.components import Parts, PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute
from service.keys import KeyScope
from service.schemas.jobs import FailuresOut, JobOut, JobsOut, RetriedOut
from service.schemas.names import COLLECTION_NAME

_EVENT_EVERY_S = 0.25  # of one job, at most
_HEARTBEAT_S = 15.0  # a comment, so that no proxy takes a quiet stream for a dead one


async def own(request: Request, parts: PartsOf, caller: CallerOf) -> None:
    """A job of a collection that the key is not for is not there."""
    job_id = request.path_params.get("id")
    if job_id is None or caller.sees_all:
        return
    job = await parts.ledger.jobs.find(job_id)
    if not caller.sees(job.collection):
        raise no_job(job_id)


router = APIRouter(route_class=StrictRoute, tags=["jobs"], dependencies=[Depends(own)])

Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=2**53)]
JobId = Annotated[str, Path(alias="id", min_length=1, max_length=100)]
InCollection = Annotated[str | None, Query(pattern=COLLECTION_NAME)]
States = Annotated[list[JobState] | None, Query(description="unset: all")]


@router.get("/jobs", response_model=JobsOut)
async def read_all(
    parts: PartsOf,
    caller: CallerOf,
    collection: InCollection = None,
    state: States = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Response:
    """Newest first; of the collections that the API key is for."""
    prefixes = () if caller.sees_all else caller.prefixes
    jobs = await parts.ledger.jobs.newest(
        collection=collection, prefixes=prefixes, states=state or (), limit=limit, offset=offset
    )
    return Json({"jobs": [job_wire(job) for job in jobs]})


@router.get("/jobs/{id}", response_model=JobOut)
async def read(job_id: JobId, parts: PartsOf) -> Response:
    return Json(job_wire(await parts.ledger.jobs.find(job_id)))


@router.get("/jobs/{id}/failures", response_model=FailuresOut)
async def failures(job_id: JobId, parts: PartsOf, limit: Limit = 100, offset: Offset = 0) -> Response:
    """Documents of the job that could not be indexed, and why."""
    await parts.ledger.jobs.find(job_id)
    found = await parts.ledger.jobs.failures(job_id, limit=limit, offset=offset)
    wire = [
        {"position": one.position, "id": one.document_id, "code": one.code, "detail": one.detail, "file": one.file}
        for one in found
    ]
    return Json({"failures": wire})


@router.post("/jobs/{id}/cancel", response_model=JobOut)
async def cancel(job_id: JobId, parts: PartsOf, caller: CallerOf) -> Response:
    """Nothing more of the job is begun. What a worker has in hand is finished first, and then the job is `cancelled`; one that is
    finished stays as it is. A reindex is for keys with the scope `admin`, as by its own call."""
    job = await parts.ledger.jobs.find(job_id)
    if job.kind is JobKind.REINDEX and KeyScope.ADMIN not in caller.scopes:
        raise Forbidden(f"job {job_id} is a reindex: cancelling it needs a key with scope admin")
    job = await parts.ledger.jobs.cancel(job_id)
    parts.progress.notify()
    return Json(job_wire(job))


@router.post("/jobs/{id}/retry", status_code=202, response_model=RetriedOut)
async def retry(job_id: JobId, parts: PartsOf) -> Response:
    """A new job of what failed in this one; asked twice, it is the same job. Documents that were written again since are left out."""
    job, _ = await parts.ledger.retries.start(job_id)
    parts.worker.poke()
    return Json({"job": job_wire(job)}, 202)


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(job_id: JobId, parts: PartsOf) -> Response:
    """Server-sent events: the job now and after each change, a few times a second at most, until it is finished."""
    await parts.ledger.jobs.find(job_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(job_id, parts), headers=headers, media_type="text/event-stream")


async def _events(job_id: str, parts: Parts) -> AsyncIterator[bytes]:
    """Ends as well when this process does, or the job is gone with its collection."""
    following = parts.progress.follow(job_id, _EVENT_EVERY_S)
    stopping = asyncio.ensure_future(parts.draining.wait())
    coming = asyncio.ensure_future(anext(following, None))
    try:
        while not stopping.done():
            await asyncio.wait({coming, stopping}, timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                yield b": still there\n\n"
                continue
            if coming.exception() is not None or (job := coming.result()) is None:
                return
            yield b"event: job\ndata: " + Json(job_wire(job)).body + b"\n\n"
            coming = asyncio.ensure_future(anext(following, None))
    finally:
        coming.cancel()
        stopping.cancel()
        await asyncio.gather(coming, stopping, return_exceptions=True)
        await following.aclose()
