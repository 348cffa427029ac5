"""GET /jobs, /jobs/{id} and /jobs/{id}/failures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from indexer.ledger.rows import no_job
from indexer.records import JobState
from service.api.paths import job_wire
from service.auth import CallerOf
from service.parts import PartsOf
from service.schemas import COLLECTION_NAME, FailuresOut, JobOut, JobsOut
from service.wire import Json, StrictRoute


async def own(request: Request, parts: PartsOf, caller: CallerOf) -> None:
    """A job of a collection that the key is not for is not there."""
    job_id = request.path_params.get("id")
    if job_id is None or caller.sees_all:
        return
    job = await parts.in_ledger(parts.ledger.job, job_id)
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
    jobs = await parts.in_ledger(
        parts.ledger.jobs, collection=collection, prefixes=prefixes, states=state or (), limit=limit, offset=offset
    )
    return Json({"jobs": [job_wire(job) for job in jobs]})


@router.get("/jobs/{id}", response_model=JobOut)
async def read(job_id: JobId, parts: PartsOf) -> Response:
    return Json(job_wire(await parts.in_ledger(parts.ledger.job, job_id)))


@router.get("/jobs/{id}/failures", response_model=FailuresOut)
async def failures(job_id: JobId, parts: PartsOf, limit: Limit = 100, offset: Offset = 0) -> Response:
    """Documents of the job that could not be indexed, and why."""
    await parts.in_ledger(parts.ledger.job, job_id)
    found = await parts.in_ledger(parts.ledger.failures, job_id, limit=limit, offset=offset)
    wire = [
        {"position": one.position, "id": one.document_id, "code": one.code, "detail": one.detail, "file": one.file}
        for one in found
    ]
    return Json({"failures": wire})
