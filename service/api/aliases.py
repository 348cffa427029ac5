"""Aliases: other names of collections, switched at once. PUT and DELETE /aliases/{name}, GET /aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from indexer.domain.names import COLLECTION_NAME
from service.components import PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute
from service.schemas.collections import AliasesOut, AliasIn, AliasOut

router = APIRouter(route_class=StrictRoute, tags=["collections"])

AliasPath = Annotated[str, Path(alias="name", pattern=COLLECTION_NAME, description="the alias", examples=["nations"])]


@router.put("/aliases/{name}", response_model=AliasOut, responses={201: {"model": AliasOut}})
async def set_alias(alias: AliasPath, body: AliasIn, parts: PartsOf, caller: CallerOf) -> Response:
    """Create the alias, or switch it: searches and writes that begin from now on use this collection. 201 when it is
    new.

    An alias can stand wherever searches and documents name a collection. A collection is changed and deleted by its own
    name.
    """
    caller.require(body.collection)  # the gate has asked about the alias
    created = await parts.catalog.set_alias(alias, body.collection)
    return Json({"alias": alias, "collection": body.collection}, 201 if created else 200)


@router.get("/aliases", response_model=AliasesOut)
async def list_aliases(parts: PartsOf, caller: CallerOf) -> Response:
    """List the aliases that the API key may see."""
    aliases = await parts.catalog.aliases()
    return Json(
        {"aliases": [{"alias": alias, "collection": name} for alias, name in aliases.items() if caller.sees(alias)]}
    )


@router.delete("/aliases/{name}", status_code=204)
async def delete_alias(alias: AliasPath, parts: PartsOf) -> Response:
    """Delete the alias. The collection stays."""
    await parts.catalog.drop_alias(alias)
    return Response(status_code=204)
