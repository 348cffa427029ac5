"""GET /jobs, /jobs/{id} with its failures and events; POST /jobs/{id}/cancel and /retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from indexer.domain.jobs import JobKind, JobState
from indexer.domain.names import COLLECTION_NAME
from indexer.domain.samples import JOB_ID
from indexer.domain.validation import brief
from indexer.ledger.sql.rows import no_job
from model.errors import Forbidden
from service.api.serializers import job_wire
from service.components import Parts, PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute
from service.keys import Key, KeyScope
from service.schemas.jobs import FailuresOut, JobAcceptedOut, JobOut, JobsOut

# The shortest time between two events of one job.
_EVENT_EVERY_S = 0.25
# A comment is sent so often, so that no proxy takes a quiet stream for a dead one.
_HEARTBEAT_S = 15.0


async def own(request: Request, parts: PartsOf, caller: CallerOf) -> None:
    """Hide the jobs of collections that the key may not see."""
    job_id = request.path_params.get("id")
    if job_id is None or caller.sees_all:
        return
    job = await parts.ledger.jobs.find(job_id)
    if not caller.sees(job.collection) and not await _sees_alias(parts, caller, job.collection):
        raise no_job(job_id)


async def _sees_alias(parts: Parts, caller: Key, name: str) -> bool:
    """Return whether the key allows an alias of the collection, through which its holder posts documents and follows
    their jobs."""
    return any(caller.sees(alias) and target == name for alias, target in (await parts.catalog.aliases()).items())


router = APIRouter(route_class=StrictRoute, tags=["jobs"], dependencies=[Depends(own)])

Limit = Annotated[int, Query(ge=1, le=1000, description="how many at most", examples=[50])]
Offset = Annotated[int, Query(ge=0, le=2**53, description="how many to skip", examples=[0])]
JobId = Annotated[str, Path(alias="id", min_length=1, max_length=100, description="the job's id", examples=[JOB_ID])]
InCollection = Annotated[
    str | None, Query(pattern=COLLECTION_NAME, description="the jobs of this collection only", examples=["flags"])
]
States = Annotated[
    list[JobState] | None,
    Query(description="jobs in one of these states; by default all", examples=[["queued", "running"]]),
]


@router.get("/jobs", response_model=JobsOut)
async def list_jobs(
    parts: PartsOf,
    caller: CallerOf,
    collection: InCollection = None,
    state: States = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Response:
    """List jobs, newest first, of the collections that the API key may see, by their own names or by an alias."""
    prefixes = () if caller.sees_all else caller.prefixes
    aliases = await parts.catalog.aliases() if prefixes or collection is not None else {}
    if collection is not None and caller.sees(collection) and (target := aliases.get(collection)):
        collection, prefixes = target, ()
    opened = {target for alias, target in aliases.items() if caller.sees(alias)} if prefixes else set()
    jobs = await parts.ledger.jobs.newest(
        collection=collection, prefixes=prefixes, names=opened, states=state or (), limit=limit, offset=offset
    )
    return Json({"jobs": [job_wire(job) for job in jobs]})


@router.get("/jobs/{id}", response_model=JobOut)
async def get_job(job_id: JobId, parts: PartsOf) -> Response:
    """Return one job as it stands."""
    return Json(job_wire(await parts.ledger.jobs.find(job_id)))


@router.get("/jobs/{id}/failures", response_model=FailuresOut)
async def list_failures(job_id: JobId, parts: PartsOf, limit: Limit = 100, offset: Offset = 0) -> Response:
    """List the documents of the job that could not be indexed, and why."""
    await parts.ledger.jobs.find(job_id)
    page = await parts.ledger.jobs.failures(job_id, limit=limit, offset=offset)
    wire = [
        {
            "position": failure.position,
            "id": failure.document_id,
            "code": failure.code,
            "detail": brief(failure.detail),
            "file": failure.file,
        }
        for failure in page
    ]
    return Json({"failures": wire})


@router.post("/jobs/{id}/cancel", response_model=JobOut)
async def cancel_job(job_id: JobId, parts: PartsOf, caller: CallerOf) -> Response:
    """Begin nothing more of the job. Batches that a worker has begun are finished first, and then the job is
    `cancelled`; a finished job stays as it is. Cancelling a reindex needs a key with the scope `admin`."""
    job = await parts.ledger.jobs.find(job_id)
    if job.kind is JobKind.REINDEX and KeyScope.ADMIN not in caller.scopes:
        raise Forbidden(f"job {job_id} is a reindex: cancelling it needs a key with scope admin")
    if job.kind is JobKind.REINDEX:
        caller.require(job.collection)
    job = await parts.ledger.jobs.cancel(job_id)
    parts.progress.notify()
    return Json(job_wire(job))


@router.post("/jobs/{id}/retry", status_code=202, response_model=JobAcceptedOut)
async def retry_job(job_id: JobId, parts: PartsOf) -> Response:
    """Create a job for what failed in this one; a repeated request returns the same job. Documents written again since
    are left out."""
    job, _ = await parts.ledger.retries.start(job_id)
    parts.wakeups.work_arrived()
    return Json({"job": job_wire(job)}, 202)


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def follow_job(job_id: JobId, parts: PartsOf) -> Response:
    """Send the job now and after each change, a few times a second at most, as server-sent events, until it is
    finished."""
    await parts.ledger.jobs.find(job_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(job_id, parts), headers=headers, media_type="text/event-stream")


async def _events(job_id: str, parts: Parts) -> AsyncIterator[bytes]:
    """Stream the events of a job until it has finished, this process stops, or the job is gone with its collection."""
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
