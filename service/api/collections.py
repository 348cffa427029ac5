"""PUT, GET and DELETE /collections/{name}, GET /collections."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from indexer.records import Collection
from service.api.paths import CollectionPath
from service.auth import CallerOf
from service.parts import Parts, PartsOf
from service.schemas import CollectionIn, CollectionOut, CollectionsOut
from service.wire import Json, StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["collections"])


@router.put("/collections/{name}", response_model=CollectionOut, responses={201: {"model": CollectionOut}})
async def create(name: CollectionPath, parts: PartsOf, body: CollectionIn | None = None) -> Response:
    """201 when it is new, 200 when it is there already."""
    settings = body or CollectionIn(instruction=None, language=None)
    collection, created = await parts.catalog.create(name, instruction=settings.instruction, language=settings.language)
    return Json(await _wire(parts, collection), 201 if created else 200)


@router.get("/collections/{name}", response_model=CollectionOut)
async def read(name: CollectionPath, parts: PartsOf) -> Response:
    return Json(await _wire(parts, await parts.catalog.get(name)))


@router.get("/collections", response_model=CollectionsOut)
async def read_all(parts: PartsOf, caller: CallerOf) -> Response:
    """Those that the API key is for."""
    collections = [one for one in await parts.catalog.all() if caller.sees(one.name)]
    return Json({"collections": await asyncio.gather(*(_wire(parts, one) for one in collections))})


@router.delete("/collections/{name}", status_code=204)
async def drop(name: CollectionPath, parts: PartsOf) -> Response:
    """With its documents and jobs. Images stay until nothing refers to them."""
    await parts.catalog.drop(name)
    return Response(status_code=204)


async def _wire(parts: Parts, collection: Collection) -> dict[str, Any]:
    info, layout = await parts.encoder.info(), await parts.catalog.layout(collection.name)
    return {
        "name": collection.name,
        "documents": await parts.catalog.count(collection.name),
        "model": collection.model,
        "fingerprint": collection.fingerprint,
        "dimensions": collection.dimensions,
        "instruction": collection.instruction,
        "language": layout.language,
        "latents": layout.latents,
        "created_at": collection.created_at,
        "compatible": collection.fingerprint == info.fingerprint,
    }
