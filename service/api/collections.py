"""PUT, PATCH, GET and DELETE /collections/{name}, GET /collections."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from indexer.domain.collections import Collection
from model.errors import InvalidInput
from service.api.serializers import CollectionPath
from service.components import Parts, PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute
from service.schemas.collections import CollectionIn, CollectionOut, CollectionsOut

router = APIRouter(route_class=StrictRoute, tags=["collections"])


@router.put("/collections/{name}", response_model=CollectionOut, responses={201: {"model": CollectionOut}})
async def create(name: CollectionPath, parts: PartsOf, body: CollectionIn | None = None) -> Response:
    """201 when it is new, 200 when it is there already, as asked for: what the body does not name is not asked about."""
    wanted = body or CollectionIn.model_validate({})
    _check_limit(wanted, parts)
    collection, created = await parts.catalog.create(
        name,
        instruction=wanted.instruction,
        limit=wanted.limit,
        indexes=wanted.indexes,
        language=wanted.language,
    )
    return Json(await _wire(parts, collection), 201 if created else 200)


@router.patch("/collections/{name}", response_model=CollectionOut)
async def change(name: CollectionPath, body: CollectionIn, parts: PartsOf) -> Response:
    """Changes what the body names, while searches and writes go on. Declared fields can be added, and stay as they are declared.

    For anything else, such as another type of a field, fill a new collection and switch an alias to it.
    """
    _check_limit(body, parts)
    settings = body.model_dump(include=body.model_fields_set)
    return Json(await _wire(parts, await parts.catalog.change(name, settings)))


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
    """With its documents, jobs and aliases. Images stay until nothing refers to them."""
    await parts.catalog.drop(name)
    return Response(status_code=204)


def _check_limit(body: CollectionIn, parts: Parts) -> None:
    most = parts.settings.max_search_hits
    if body.limit is not None and body.limit > most:
        raise InvalidInput(f"limit is {body.limit}, at most {most}", field="limit", value=body.limit, limit=most)


async def _wire(parts: Parts, collection: Collection) -> dict[str, Any]:
    encoder, layout, documents, counts, size_bytes, aliases = await asyncio.gather(
        parts.encoders.by_fingerprint(collection.fingerprint),
        parts.catalog.layout(collection),
        parts.catalog.points(collection).count(),
        parts.catalog.counts(collection),
        parts.catalog.size_bytes(collection),
        parts.catalog.aliases(collection),
    )
    return {
        "name": collection.name,
        "documents": documents,
        "pending": counts.pending,
        "failed": counts.failed,
        "size_bytes": size_bytes,
        "model": collection.model,
        "fingerprint": collection.fingerprint,
        "dimensions": collection.dimensions,
        "instruction": collection.instruction,
        "limit": collection.limit,
        "indexes": dict(collection.indexes),
        "aliases": list(aliases),
        "language": layout.language,
        "latents": layout.latents,
        "created_at": collection.created_at,
        "compatible": encoder is not None,
        "generation": collection.generation,
    }
