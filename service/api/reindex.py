"""POST and GET /collections/{name}/reindex, and what can be done to one under way."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from indexer.domain.collections import Collection, Reindex
from service.api.serializers import CollectionPath, job_wire
from service.components import Parts, PartsOf
from service.http.responses import Json, StrictRoute
from service.schemas.collections import GenerationOut, ReindexIn, ReindexingOut, ReindexOut

router = APIRouter(route_class=StrictRoute, tags=["reindex"])


@router.post("/collections/{name}/reindex", status_code=202, response_model=ReindexingOut)
async def start(name: CollectionPath, parts: PartsOf, body: ReindexIn | None = None) -> Response:
    """Embeds every document again with another model that runs here, beside the generation that goes on being searched and
    written to, and then switches. Asked again while it is under way it is the same job, and what failed is tried again."""
    wanted = body or ReindexIn(model=None, max_failures=0)
    job, _ = await parts.reindexes.start(name, model=wanted.model, max_failures=wanted.max_failures)
    return Json({"job": job_wire(job)}, 202)


@router.get("/collections/{name}/reindex", response_model=ReindexOut)
async def read(name: CollectionPath, parts: PartsOf) -> Response:
    """404 when the collection has one generation only."""
    return Json(await _wire(parts, await parts.reindexes.get(name)))


@router.post("/collections/{name}/reindex/cancel", status_code=202, response_model=ReindexingOut)
async def cancel(name: CollectionPath, parts: PartsOf) -> Response:
    """Gives up the new generation, before the switch. The same as cancelling the job."""
    return Json({"job": job_wire(await parts.reindexes.cancel(name))}, 202)


@router.post("/collections/{name}/reindex/rollback", status_code=202, response_model=ReindexOut)
async def roll_back(name: CollectionPath, parts: PartsOf) -> Response:
    """After the switch, while the previous generation is kept: switches back, in a moment, and loses no write."""
    return Json(await _wire(parts, await parts.reindexes.roll_back(name)), 202)


@router.post("/collections/{name}/reindex/finish", status_code=202, response_model=ReindexOut)
async def finish(name: CollectionPath, parts: PartsOf) -> Response:
    """After the switch: the previous generation goes now, not when its time is over."""
    return Json(await _wire(parts, await parts.reindexes.finish(name)), 202)


async def _wire(parts: Parts, reindex: Reindex) -> dict[str, Any]:
    return {
        "collection": reindex.collection,
        "state": reindex.state,
        "serving": _generation(await parts.catalog.get(reindex.collection)),
        "other": _generation(reindex),
        "until": reindex.until,
        "job": reindex.job_id,
    }


def _generation(of: Collection | Reindex) -> dict[str, Any]:
    return {name: getattr(of, name) for name in GenerationOut.model_fields}
