"""What the calls that make a job answer: the job at once, or with `wait` what became of each of its documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import orjson
from fastapi import Header, Query
from starlette.responses import Response, StreamingResponse

from indexer.domain.jobs import Job, Outcome
from indexer.domain.validation import brief
from indexer.intake import Accepted
from service.api.serializers import job_wire
from service.components import Parts
from service.http.problems import JSON
from service.http.responses import Json

Wait = Annotated[
    bool,
    Query(description="answer when the job is done, or with 202 when `wait_timeout_s` is over first", examples=[True]),
]
_KEY = "a repeated key returns the job of the first request instead of a new one"
IdempotencyKey = Annotated[
    str | None,
    Header(
        max_length=255,
        description=_KEY,
        examples=["load-2025-10-09"],
    ),
]
UpdateKey = Annotated[
    str | None, Header(alias="idempotency-key", max_length=255, description=_KEY, examples=["prices-2025-10-09"])
]


async def seen(stream: AsyncIterator[bytes], take: Callable[[bytes], object]) -> AsyncIterator[bytes]:
    """Yield the parts of a body, each of which `take` has seen."""
    async for chunk in stream:
        take(chunk)
        yield chunk


async def accepted_answer(parts: Parts, accepted: Accepted, wait: bool) -> Response:
    """Answer with the job and what was rejected; of a job that was waited for with the result of each document."""
    for code, count in accepted.rejected_codes.items():
        parts.metrics.rejected_documents.labels(code).inc(count)
    rejected = [
        {"position": document.position, "id": document.id, "code": document.code, "detail": brief(document.detail)}
        for document in accepted.rejected
    ]
    job = await awaited(parts, accepted.job, wait)
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


async def job_answer(parts: Parts, accepted: Job, wait: bool) -> Response:
    """Answer with the job."""
    job = await awaited(parts, accepted, wait)
    return Json({"job": job_wire(job)}, 200 if wait and job.state.finished else 202)


async def awaited(parts: Parts, job: Job, wait: bool) -> Job:
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
    wire: dict[str, Any] = {"id": result.document_id, "status": result.status}
    if result.truncated:
        wire["truncated"] = result.truncated
    return {**wire, "error": {"code": result.code, "detail": brief(result.detail or "")}} if result.code else wire
