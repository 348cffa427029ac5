"""Documents read without a model: GET /collections/{name}/documents, POST …/documents/scroll, …/documents/get and
…/count."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from indexer import filters
from indexer.domain.collections import Collection
from indexer.domain.points import Point
from indexer.filters import Filter
from service.api.serializers import CollectionPath
from service.components import Parts, PartsOf
from service.http.middleware.api_keys import CallerOf
from service.http.responses import Json, StrictRoute, answer_within
from service.schemas.hits import ContentView, DocumentOut, wire
from service.schemas.reading import DEFAULT_PAGE, MAX_PAGE, CountIn, CountOut, DocumentsOut, GetIn, GotOut, ScrollIn
from service.search.answers import AnswerWriter
from service.search.hits import name_for
from service.search.scroll import Cursor, PageReader, read_cursor, walk_of

router = APIRouter(route_class=StrictRoute, tags=["documents"])

PageLimit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="documents of a page", examples=[100])]
PageCursor = Annotated[
    str | None,
    Query(
        max_length=4096,
        description="the cursor of the page before: the documents behind it",
        examples=["WyJjMmEwIiwiOWY4NiJd"],
    ),
]


@router.get("/collections/{name}/documents", response_model=DocumentsOut)
async def list_documents(
    name: CollectionPath,
    request: Request,
    parts: PartsOf,
    caller: CallerOf,
    limit: PageLimit = DEFAULT_PAGE,
    cursor: PageCursor = None,
) -> Response:
    """List the documents of a collection page by page, whatever their number. No model is asked."""
    body = ScrollIn.model_validate({"limit": limit, "cursor": cursor})
    return await scroll_documents(name, body, request, parts, caller)


@router.post("/collections/{name}/documents/scroll", response_model=DocumentsOut)
async def scroll_documents(
    name: CollectionPath, body: ScrollIn, request: Request, parts: PartsOf, caller: CallerOf
) -> Response:
    """Read the documents that fulfil a filter page by page, whatever their number. No model is asked.

    Every document comes exactly once; one that is posted or deleted meanwhile may be missing or not. A page has fewer
    documents than `limit` where they would have more than `max_answer_bytes`.
    """
    collection = await _collection(parts, name, body.filter)
    _check_fields(body)
    walk = walk_of(collection, body.filter)
    after = None if body.cursor is None else read_cursor(body.cursor, walk)
    shown_name = name_for(caller, name, collection.name)

    def write(point: Point) -> bytes:
        return _written(point, shown_name, body)

    reader = PageReader(
        parts.catalog.points(collection), parts.settings.http.max_answer_bytes, request.scope["state"]["answer"]
    )
    async with parts.hit_room.taken(body.limit):
        reading = reader.read(after, body.limit, body.filter, write, with_vectors=body.with_vector)
        documents, following = await answer_within(request, reading, parts.settings.request_timeout_s)
        cursor = None if following is None else Cursor(following, walk).text()
        return Json({"documents": _list_of(documents), "cursor": cursor})


@router.post("/collections/{name}/documents/get", response_model=GotOut)
async def get_documents(
    name: CollectionPath, body: GetIn, request: Request, parts: PartsOf, caller: CallerOf
) -> Response:
    """Return documents by their ids. Ids that the index does not have are listed as `missing`."""
    collection = await parts.catalog.get(name)
    _check_fields(body)
    shown_name = name_for(caller, name, collection.name)
    ids = list(dict.fromkeys(body.ids))
    async with parts.hit_room.taken(len(ids)):
        points = await parts.catalog.points(collection).fetch(ids, with_vectors=body.with_vector)
        missing = [key for key, point in zip(ids, points, strict=True) if point is None]
        writer = AnswerWriter(parts.settings.http.max_answer_bytes, request.scope["state"]["answer"])
        documents = [_view(point, shown_name, body) for point in points if point is not None]
        return Json(writer.write({"documents": documents, "missing": missing}))


@router.post("/collections/{name}/count", response_model=CountOut)
async def count_documents(
    name: CollectionPath, request: Request, parts: PartsOf, body: CountIn | None = None
) -> Response:
    """Count the documents in the index, or those that fulfil a filter, exactly."""
    condition = None if body is None else body.filter
    collection = await _collection(parts, name, condition)
    counting = parts.catalog.points(collection).count(condition)
    return Json({"count": await answer_within(request, counting, parts.settings.request_timeout_s)})


async def _collection(parts: Parts, name: str, condition: Filter | None) -> Collection:
    collection = await parts.catalog.get(name)
    if condition is not None:
        filters.check_types(condition, collection.indexes)
    return collection


def _check_fields(body: ScrollIn | GetIn) -> None:
    for path in body.metadata_fields if isinstance(body.metadata_fields, list) else ():
        filters.check_field(path, "metadata_fields")


def _view(point: Point, collection: str, body: ScrollIn | GetIn) -> dict[str, Any]:
    return wire(DocumentOut, ContentView(point, collection, body.metadata_fields, body.with_vector))


def _written(point: Point, collection: str, body: ScrollIn | GetIn) -> bytes:
    return orjson.dumps(_view(point, collection, body), option=orjson.OPT_SERIALIZE_NUMPY)


def _list_of(documents: list[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(documents) + b"]")
