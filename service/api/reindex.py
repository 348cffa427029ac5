"""POST and GET /collections/{name}/reindex, and what can be done to one under way."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from indexer.domain.collections import Collection, Reindex
from service.api.serializers import CollectionPath, job_wire
from service.components import Parts, PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute
from service.keys import Key
from service.schemas.collections import GenerationOut, ReindexIn, ReindexOut
from service.schemas.jobs import JobAcceptedOut

router = APIRouter(route_class=StrictRoute, tags=["reindex"])


@router.post("/collections/{name}/reindex", status_code=202, response_model=JobAcceptedOut)
async def start_reindex(
    name: CollectionPath, parts: PartsOf, caller: CallerOf, body: ReindexIn | None = None
) -> Response:
    """Embed every document again with another model that runs here, while the present generation is searched and
    written to, and then switch. Repeating the request during a reindex returns the same job and tries failures
    again."""
    await _require(name, parts, caller)
    order = body or ReindexIn(model=None, max_failures=0)
    job, _ = await parts.reindexes.start(name, model=order.model, max_failures=order.max_failures)
    return Json({"job": job_wire(job)}, 202)


@router.get("/collections/{name}/reindex", response_model=ReindexOut)
async def get_reindex(name: CollectionPath, parts: PartsOf) -> Response:
    """Return the two generations of a collection. 404 when it has only one."""
    return Json(await _wire(parts, await parts.reindexes.get(name)))


@router.post("/collections/{name}/reindex/cancel", status_code=202, response_model=JobAcceptedOut)
async def cancel_reindex(name: CollectionPath, parts: PartsOf, caller: CallerOf) -> Response:
    """Give up the new generation before the switch. The same as cancelling the job."""
    await _require(name, parts, caller)
    return Json({"job": job_wire(await parts.reindexes.cancel(name))}, 202)


@router.post("/collections/{name}/reindex/rollback", status_code=202, response_model=ReindexOut)
async def roll_back_reindex(name: CollectionPath, parts: PartsOf, caller: CallerOf) -> Response:
    """Switch back to the previous generation while it is kept. No write is lost."""
    await _require(name, parts, caller)
    return Json(await _wire(parts, await parts.reindexes.roll_back(name)), 202)


@router.post("/collections/{name}/reindex/finish", status_code=202, response_model=ReindexOut)
async def finish_reindex(name: CollectionPath, parts: PartsOf, caller: CallerOf) -> Response:
    """Drop the previous generation now instead of when its time is over."""
    await _require(name, parts, caller)
    return Json(await _wire(parts, await parts.reindexes.finish(name)), 202)


async def _require(name: str, parts: Parts, caller: Key) -> None:
    """Check the collection behind the name. The gate has only checked the name in the path, which may be an alias."""
    caller.require((await parts.catalog.get(name)).name)


async def _wire(parts: Parts, reindex: Reindex) -> dict[str, Any]:
    return {
        "collection": reindex.collection,
        "state": reindex.state,
        "serving": _generation(await parts.catalog.get(reindex.collection)),
        "other": _generation(reindex),
        "until": reindex.until,
        "job": reindex.job_id,
    }


def _generation(source: Collection | Reindex) -> dict[str, Any]:
    return {name: getattr(source, name) for name in GenerationOut.model_fields}
