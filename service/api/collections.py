"""PUT, PATCH, GET and DELETE /collections/{name}, GET /collections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from indexer import filters
from indexer.domain.collections import Collection, Counts, PassageSettings
from indexer.domain.validation import brief
from indexer.errors import CollectionDamaged
from indexer.store.base import ServerOptions, Summary
from indexer.store.indexes import unfinished
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound, RetrievalError
from service.api.job_answers import Wait, job_answer
from service.api.serializers import CollectionPath
from service.components import Parts, PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute
from service.keys import Key
from service.schemas.collections import (
    CollectionIn,
    CollectionOut,
    CollectionsOut,
    CopyIn,
    PassagesSettings,
    ServerOptionsIn,
)
from service.schemas.jobs import JobAcceptedOut

router = APIRouter(route_class=StrictRoute, tags=["collections"])

# Collections that are described in one turn of the event loop: some 2 ms. Others have their turn between two.
_DESCRIBED_AT_A_TIME = 200


@router.put("/collections/{name}", response_model=CollectionOut, responses={201: {"model": CollectionOut}})
async def create_collection(
    name: CollectionPath, parts: PartsOf, caller: CallerOf, body: CollectionIn | None = None
) -> Response:
    """Create a collection: 201 when it is new, 200 when it exists with these settings. Settings that the body does not
    name are not compared.

    It keeps its model; another one fills it by a reindex.
    """
    settings = body or CollectionIn.model_validate({})
    _check_limit(settings, parts)
    collection, created = await parts.catalog.create(
        name,
        instruction=settings.instruction,
        limit=settings.limit,
        indexes=settings.indexes,
        language=settings.language,
        model=settings.model,
        passages=None if settings.passages is None else _passages(settings.passages),
        server=None if settings.server is None else _options(settings.server),
    )
    return Json(await _wire(parts, caller, collection), 201 if created else 200)


@router.patch("/collections/{name}", response_model=CollectionOut)
async def change_collection(name: CollectionPath, body: CollectionIn, parts: PartsOf, caller: CallerOf) -> Response:
    """Change the settings that the body names, while searches and writes go on. Declared fields can be added, but not
    changed.

    For anything else, such as another type of a field, fill a new collection and switch an alias to it.
    """
    _check_limit(body, parts)
    settings = body.model_dump(include=body.model_fields_set)
    if "passages" in settings:
        settings["passages"] = _passages(body.passages)
    if body.server is not None:
        settings["server"] = _options(body.server)
    return Json(await _wire(parts, caller, await parts.catalog.change(name, settings)))


@router.get("/collections/{name}", response_model=CollectionOut)
async def get_collection(name: CollectionPath, parts: PartsOf, caller: CallerOf) -> Response:
    """Return one collection as it stands."""
    return Json(await _wire(parts, caller, await parts.catalog.get(name)))


@router.get("/collections", response_model=CollectionsOut)
async def list_collections(parts: PartsOf, caller: CallerOf) -> Response:
    """List the collections that the API key may see. A collection whose index cannot be read, or whose model
    is unavailable, has an `error`."""
    collections = [collection for collection in await parts.catalog.all() if caller.sees(collection.name)]
    return Json({"collections": await _wires(parts, caller, collections)})


@router.post(
    "/collections/{name}/copy",
    status_code=202,
    response_model=JobAcceptedOut,
    responses={200: {"model": JobAcceptedOut, "description": "with `wait=true`: the copy is done"}},
)
async def copy_collection(
    name: CollectionPath, body: CopyIn, parts: PartsOf, caller: CallerOf, wait: Wait = False
) -> Response:
    """Copy documents to another collection with their embeddings, images and metadata, by a job of that collection.

    Nothing is embedded again. The documents are those in the index when the request is accepted, each as it stands when
    its turn comes.
    """
    caller.require(body.to)
    origin = await parts.catalog.get(name)
    if body.filter is not None:
        filters.check_types(body.filter, origin.indexes)
    target = await parts.catalog.create_like(origin, body.to)
    job = await parts.intake.copy(origin, parts.catalog.points(origin), body.filter, target)
    return await job_answer(parts, job, wait)


@router.delete("/collections/{name}", status_code=204)
async def delete_collection(name: CollectionPath, parts: PartsOf) -> Response:
    """Delete the collection with its documents, jobs and aliases. Images stay until nothing refers to them."""
    await parts.catalog.drop(name)
    return Response(status_code=204)


def _passages(passages: PassagesSettings | None) -> PassageSettings:
    return PassageSettings() if passages is None else PassageSettings(**passages.model_dump())


def _options(server: ServerOptionsIn) -> ServerOptions:
    return ServerOptions(**server.model_dump())


def _check_limit(body: CollectionIn, parts: Parts) -> None:
    most = parts.settings.search.hits
    if body.limit is not None and body.limit > most:
        raise InvalidInput(f"limit is {body.limit}, at most {most}", field="limit", value=body.limit, limit=most)


async def _wire(parts: Parts, caller: Key, collection: Collection) -> dict[str, Any]:
    """Describe a collection. Raise what keeps the store from reading it, or its model from being known."""
    # A list opens no collection; here it is seen whether it can be opened.
    await parts.catalog.layout(collection)
    (summary,) = (await parts.catalog.summaries([collection])).values()
    if isinstance(summary, RetrievalError):
        raise summary
    served = await parts.encoders.by_fingerprint(collection.fingerprint, collection.model) is not None
    counts, aliases = await asyncio.gather(parts.catalog.counts(collection), parts.catalog.aliases(collection))
    pending = counts.get(collection.name, Counts(0, 0))
    return _described(collection, summary, pending, [name for name in aliases if caller.sees(name)], served=served)


async def _wires(parts: Parts, caller: Key, collections: Sequence[Collection]) -> list[dict[str, Any]]:
    """Describe collections, each by what the ledger knows and, where the store cannot read it or it is not known
    whether its model is served, by the error."""
    summaries, counts, aliases = await asyncio.gather(
        parts.catalog.summaries(collections), parts.catalog.counts(), parts.catalog.aliases()
    )
    names: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        if caller.sees(alias):
            names.setdefault(name, []).append(alias)
    models = {(collection.fingerprint, collection.model) for collection in collections}
    served = {model: await _served(parts, *model) for model in models}
    wires = []
    for place, collection in enumerate(collections):
        if place % _DESCRIBED_AT_A_TIME == 0:
            await asyncio.sleep(0)
        summary, compatible = summaries[collection.name], served[collection.fingerprint, collection.model]
        if isinstance(summary, RetrievalError) and not isinstance(summary, NotFound | Conflict | CollectionDamaged):
            raise summary
        error = next((said for said in (summary, compatible) if isinstance(said, RetrievalError)), None)
        wires.append(
            _described(
                collection,
                None if isinstance(summary, RetrievalError) else summary,
                counts.get(collection.name, Counts(0, 0)),
                names.get(collection.name, []),
                served=compatible is True,
                error=error,
            )
        )
    return wires


async def _served(parts: Parts, fingerprint: str, model: str) -> bool | DependencyUnavailable:
    try:
        return await parts.encoders.by_fingerprint(fingerprint, model) is not None
    except DependencyUnavailable as unavailable:
        return unavailable


def _described(
    collection: Collection,
    summary: Summary | None,
    counts: Counts,
    aliases: list[str],
    *,
    served: bool,
    error: RetrievalError | None = None,
) -> dict[str, Any]:
    """Return `CollectionOut` as plain data."""
    # By name: `asdict` takes longer than all of this, and a list may have thousands.
    passages = collection.passages
    return {
        "name": collection.name,
        "documents": summary.documents if summary else 0,
        "pending": counts.pending,
        "failed": counts.failed,
        "size_bytes": summary and summary.size_bytes,
        "model": collection.model,
        "fingerprint": collection.fingerprint,
        "precision": collection.precisions.get(collection.fingerprint, ()),
        "dimensions": collection.dimensions,
        "instruction": collection.instruction,
        "limit": collection.limit,
        "indexes": dict(collection.indexes),
        "indexing": [*unfinished(collection.indexes, summary.indexed), *summary.upkeep] if summary else [],
        "aliases": aliases,
        "language": summary and summary.layout.language,
        "passages": {"enabled": passages.enabled, "tokens": passages.tokens, "overlap": passages.overlap},
        "parts": summary is not None and summary.layout.parts,
        "latents": summary is not None and summary.layout.latents,
        "server": summary and summary.kept and asdict(summary.kept),
        "created_at": collection.created_at,
        "compatible": served,
        "generation": collection.generation,
        "error": error and {"code": error.code, "detail": brief(error.detail)},
    }
