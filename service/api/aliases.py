"""Aliases: other names of collections, switched at once. PUT and DELETE /aliases/{name}, GET /aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from service.components import PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute
from service.schemas.collections import AliasesOut, AliasIn, AliasOut
from service.schemas.names import COLLECTION_NAME

router = APIRouter(route_class=StrictRoute, tags=["collections"])

AliasPath = Annotated[str, Path(alias="name", pattern=COLLECTION_NAME)]


@router.put("/aliases/{name}", response_model=AliasOut, responses={201: {"model": AliasOut}})
async def put(alias: AliasPath, body: AliasIn, parts: PartsOf, caller: CallerOf) -> Response:
    """Makes the alias, or switches it: what begins from now on, searches and writes alike, is of this collection. 201 when it is new.

    An alias stands wherever searches and documents name a collection. A collection is changed and deleted by its own name.
    """
    caller.require(body.collection)  # the gate has asked about the alias
    created = await parts.catalog.set_alias(alias, body.collection)
    return Json({"alias": alias, "collection": body.collection}, 201 if created else 200)


@router.get("/aliases", response_model=AliasesOut)
async def read_all(parts: PartsOf, caller: CallerOf) -> Response:
    """Those that the API key is for."""
    found = await parts.catalog.aliases()
    return Json(
        {"aliases": [{"alias": alias, "collection": name} for alias, name in found.items() if caller.sees(alias)]}
    )


@router.delete("/aliases/{name}", status_code=204)
async def drop(alias: AliasPath, parts: PartsOf) -> Response:
    """The collection stays."""
    await parts.catalog.drop_alias(alias)
    return Response(status_code=204)
