"""POST /search, /search/batch and /collections/{name}/facets."""

from __future__ import annotations

import asyncio
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from model.errors import Overloaded, RetrievalError, TooLarge
from service.api.serializers import CollectionPath
from service.components import Parts, PartsOf, parts_of
from service.http.middleware.api_keys import caller_of
from service.http.problems import error_wire
from service.http.responses import Json, StrictRoute, answer_within, took
from service.schemas.base import checked
from service.schemas.facets import FacetsIn, FacetsOut
from service.schemas.search import SearchBatchIn, SearchBatchOut, SearchIn, SearchOut
from service.search.answers import AnswerWriter
from service.search.searcher import Searcher

router = APIRouter(route_class=StrictRoute, tags=["search"])


async def searcher_of(request: Request) -> Searcher:
    # Called here: FastAPI takes some 30 us to find out that each has to be.
    parts, caller = await parts_of(request), await caller_of(request)
    settings = parts.settings
    bounds = settings.search
    return Searcher(parts.catalog, parts.fetcher, settings.limits, bounds, parts.hit_room, parts.metrics, caller)


SearcherOf = Annotated[Searcher, Depends(searcher_of)]


@router.post("/search", response_model=SearchOut)
async def search(body: SearchIn, request: Request, searcher: SearcherOf) -> Response:
    """Find the documents nearest to a query of text, an image or both, best first."""
    parts = await parts_of(request)
    writer = _writer(request, parts)
    answer, timings = await answer_within(request, searcher.search(body, writer), parts.settings.request_timeout_s)
    took(request, [timings])
    return Json(answer)


@router.post("/search/batch", response_model=SearchBatchOut)
async def search_batch(body: SearchBatchIn, request: Request, searcher: SearcherOf, parts: PartsOf) -> Response:
    """Run several searches and answer with one result or error for each, in order. The answer is 429 only if all of
    them were refused for lack of capacity."""
    limit = parts.settings.http.max_searches_per_call
    if len(body.searches) > limit:
        raise TooLarge(
            f"{len(body.searches)} searches in one call, limit is {limit}",
            field="searches",
            value=len(body.searches),
            limit=limit,
        )
    writer = _writer(request, parts)
    work = asyncio.gather(*(_outcome(searcher, checked(item), writer) for item in body.searches))
    outcomes = await answer_within(request, work, parts.settings.request_timeout_s)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    if len(refused) == len(outcomes):
        raise refused[0]
    took(request, [outcome[1] for outcome in outcomes if not isinstance(outcome, RetrievalError)])
    results = [error_wire(outcome) if isinstance(outcome, RetrievalError) else outcome[0] for outcome in outcomes]
    return Json({"results": results})


@router.post("/collections/{name}/facets", response_model=FacetsOut)
async def facets(
    name: CollectionPath, body: FacetsIn, request: Request, searcher: SearcherOf, parts: PartsOf
) -> Response:
    """Count the values of metadata fields: those of texts and booleans one by one, numbers and times as a histogram."""
    counting = searcher.facets(name, body)
    return Json(await answer_within(request, counting, parts.settings.request_timeout_s))


def _writer(request: Request, parts: Parts) -> AnswerWriter:
    return AnswerWriter(parts.settings.http.max_answer_bytes, request.scope["state"]["answer"])


async def _outcome(
    searcher: Searcher, item: SearchIn | RetrievalError, writer: AnswerWriter
) -> tuple[orjson.Fragment, dict[str, float]] | RetrievalError:
    """Return the answer and its timings, or its error."""
    if isinstance(item, RetrievalError):
        return item
    try:
        return await searcher.search(item, writer)
    except RetrievalError as error:
        return error
