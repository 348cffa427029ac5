"""PUT, PATCH, GET and DELETE /collections/{name}, GET /collections."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from indexer.domain.collections import Collection
from indexer.errors import CollectionDamaged
from indexer.store.base import Layout
from model.errors import Conflict, InvalidInput, NotFound
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
    """Those that the API key is for. One whose index cannot be read is marked by its `error`."""
    collections = [collection for collection in await parts.catalog.all() if caller.sees(collection.name)]
    wires = await asyncio.gather(*(_wire(parts, collection, mark_damage=True) for collection in collections))
    return Json({"collections": wires})


@router.delete("/collections/{name}", status_code=204)
async def drop(name: CollectionPath, parts: PartsOf) -> Response:
    """With its documents, jobs and aliases. Images stay until nothing refers to them."""
    await parts.catalog.drop(name)
    return Response(status_code=204)


def _check_limit(body: CollectionIn, parts: Parts) -> None:
    most = parts.settings.max_search_hits
    if body.limit is not None and body.limit > most:
        raise InvalidInput(f"limit is {body.limit}, at most {most}", field="limit", value=body.limit, limit=most)


async def _stored(parts: Parts, collection: Collection) -> tuple[Layout, int, int | None]:
    """Return the layout, the number of documents and the bytes on disk."""
    return await asyncio.gather(
        parts.catalog.layout(collection),
        parts.catalog.points(collection).count(),
        parts.catalog.size_bytes(collection),
    )


async def _wire(parts: Parts, collection: Collection, *, mark_damage: bool = False) -> dict[str, Any]:
    """Describe a collection. Where the store cannot read it: raise, or with `mark_damage` say so beside what the ledger knows."""
    encoder, counts, aliases = await asyncio.gather(
        parts.encoders.by_fingerprint(collection.fingerprint),
        parts.catalog.counts(collection),
        parts.catalog.aliases(collection),
    )
    error = None
    try:
        layout, documents, size_bytes = await _stored(parts, collection)
    except (NotFound, Conflict, CollectionDamaged) as damage:
        if not mark_damage:
            raise
        error = {"code": damage.code, "detail": damage.detail}
        layout, documents, size_bytes = Layout(collection.dimensions), 0, None
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
        "error": error,
    }
