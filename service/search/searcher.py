"""One search from request to answer: encode the query, rank, page, write the hits.

SearchIn -> QueryEncoder -> EncodedQuery -> RankedSearch -> Pager -> Page or groups -> SearchOut
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from indexer import filters
from indexer.catalog import Catalog
from indexer.domain.collections import Collection
from indexer.domain.documents import point_id
from indexer.domain.points import Hit
from indexer.store.base import SearchWindow
from indexer.store.criteria import Place
from model.errors import TimedOut
from model.types import Limits
from service.inputs.inputs import ImageFetcher
from service.keys import Key
from service.observability.metrics import Metrics
from service.schemas.facets import FacetsIn
from service.schemas.search import QueryIn, SearchIn
from service.search.answers import AnswerWriter
from service.search.boosts import boosts_of
from service.search.bounds import SearchBounds
from service.search.browsing import Browser, read_sorted_cursor, sorted_cursor
from service.search.clock import Clock
from service.search.diversity import DiverseRanking
from service.search.facets import Facets
from service.search.highlights import passages
from service.search.hits import hit_wire, name_for, with_best_parts
from service.search.modes import RankedSearch, RankingMode
from service.search.paging import MAX_WINDOW, Mark, Page, Pager, Ranking, read_cursor
from service.search.query import EncodedQuery, QueryEncoder
from service.search.room import HitRoom
from service.search.sorting import SortedRanking, SortKey, sort_keys

# Options that may differ from page to page. The filter counts, by its meaning.
_PAGE_OPTIONS = {
    *("filter", "cursor", "limit", "offset", "metadata_fields", "with_vector", "highlight", "timeout_s", "consistency")
}


@dataclass(frozen=True, slots=True)
class Searcher:
    """Safe to call from many tasks at once: it holds nothing of a search."""

    catalog: Catalog
    fetcher: ImageFetcher
    limits: Limits
    bounds: SearchBounds
    room: HitRoom
    metrics: Metrics
    caller: Key

    async def search(self, search: SearchIn, writer: AnswerWriter) -> tuple[orjson.Fragment, dict[str, float]]:
        """Return `SearchOut` as it is written, and its timings. Raise what is wrong with the query, `NotFound`,
        `Conflict`, what is unavailable, or `TooLarge`."""
        self.caller.require(search.collection)
        try:
            async with asyncio.timeout(search.timeout_s):
                return await self._search(search, writer)
        except TimeoutError as error:
            raise TimedOut(
                f"no answer within {search.timeout_s:g} s", field="timeout_s", limit=search.timeout_s
            ) from error

    async def _search(self, search: SearchIn, writer: AnswerWriter) -> tuple[orjson.Fragment, dict[str, float]]:
        clock = Clock(search.timeout_s or self.bounds.timeout_s)
        mode = RankingMode.requested_by(search)
        for path in search.metadata_fields if isinstance(search.metadata_fields, list) else ():
            filters.check_field(path, "metadata_fields")
        if search.group_by is not None:
            filters.check_field(search.group_by, "group_by")
        for part in search.sort:
            filters.check_field(part.field, "sort")
        collection = await self.catalog.get(search.collection)
        limit = search.limit or self.bounds.default_limit(search, collection)
        self.bounds.check(search, limit)
        if search.filter is not None:
            filters.check_types(search.filter, collection.indexes)
        keys = sort_keys(search.sort, collection.indexes)
        if search.query is None:
            async with self.room.taken(limit):
                answer = await self._browse(search, keys, limit, collection, clock)
                return writer.write(answer), answer["timings"]
        boosts = boosts_of(search.boost, collection.indexes)
        query = await self._encode(search.query, search.explain, mode, collection, clock)
        ranked = replace(self._ranked(search, mode, collection, query, clock), boosts=boosts)
        pager = self._pager(search, ranked, keys, query.document_ids)
        async with self.room.taken(limit if search.group_by is None else MAX_WINDOW):
            answer = await self._answer(search, pager, limit, collection, query, clock)
            return writer.write(answer), answer["timings"]

    async def facets(self, collection_name: str, body: FacetsIn) -> dict[str, Any]:
        """Return `FacetsOut`. Raise as `search` does."""
        clock = Clock(self.bounds.timeout_s)
        for name in body.fields:
            filters.check_field(name, "fields")
        collection = await self.catalog.get(collection_name)
        if body.filter is not None:
            filters.check_types(body.filter, collection.indexes)
        points = self.catalog.points(collection)
        counting = Facets(points, collection.indexes, body.filter, body.limit)
        fields = list(dict.fromkeys(body.fields))
        if body.query is None:
            with clock.in_store():
                documents, facets = await counting.of_condition(fields)
                return {"documents": documents, "facets": facets}
        search = SearchIn.model_construct(
            collection=collection_name,
            query=body.query,
            filter=body.filter,
            mode=body.mode,
            score_threshold=body.score_threshold,
        )
        mode = RankingMode.requested_by(search)
        query = await self._encode(body.query, False, mode, collection, clock)
        ranking = self._ranked(search, mode, collection, query, clock)
        named = {point_id(document_id) for document_id in query.document_ids}
        places = await ranking.places(0, self.bounds.depth)
        ids = [place.point_id for place in places if place.point_id not in named]
        with clock.in_store():
            facets = await counting.of_points(fields, ids, exact=len(places) < self.bounds.depth)
        return {"documents": len(ids), "facets": facets}

    async def _browse(
        self, search: SearchIn, keys: Sequence[SortKey], limit: int, collection: Collection, clock: Clock
    ) -> dict[str, Any]:
        """Return a page of the documents in the order of their metadata."""
        digest = _digest(search, collection)
        mark = None if search.cursor is None else read_sorted_cursor(search.cursor, digest, len(keys))
        points = self.catalog.points(collection)
        with clock.in_store():
            browser = Browser(points.columns, keys, search.filter)
            entries = (await browser.entries(mark, search.offset + limit + 1))[search.offset :]
            ranked = [Place(entry.point_id, 0.0) for entry in entries[:limit]]
            hits = await points.hits(ranked, with_vector=search.with_vector, consistency=search.consistency)
        self._observe(len(hits), clock)
        name = name_for(self.caller, search.collection, collection.name)
        wires = [hit_wire(name, hit, search, EncodedQuery()) for hit in hits]
        cursor = sorted_cursor(entries[limit - 1], digest) if len(entries) > limit else None
        return {"hits": wires, "cursor": cursor, "timings": clock.timings()}

    async def _encode(
        self, query: QueryIn, explain: bool, mode: RankingMode, collection: Collection, clock: Clock
    ) -> EncodedQuery:
        encoder = await self.catalog.encoder(collection)
        points = self.catalog.points(collection)
        encoding = QueryEncoder(collection, encoder, points, self.limits, self.fetcher, clock)
        return await encoding.encode(query, mode, explain=explain)

    def _pager(
        self, search: SearchIn, ranked: RankedSearch, keys: Sequence[SortKey], excluded: frozenset[str]
    ) -> Pager:
        """Return the pages of a ranking as it is, made diverse, or sorted."""
        ranking: Ranking = ranked
        points, clock = ranked.points, ranked.clock
        if search.diversity:
            ranking = DiverseRanking(ranking, points, search.diversity, clock)
        if keys:
            ranking = SortedRanking(ranking, points, keys, self.bounds.depth, clock)
        steady = ranked.mode.steady and not ranked.boosts and ranking is ranked
        return Pager(ranking, excluded, self.bounds.depth, steady)

    def _ranked(
        self, search: SearchIn, mode: RankingMode, collection: Collection, query: EncodedQuery, clock: Clock
    ) -> RankedSearch:
        options = SearchWindow(
            limit=0,
            condition=search.filter,
            score_threshold=search.score_threshold,
            with_vector=search.with_vector or search.explain,
            consistency=search.consistency,
            exact=search.exact,
            ef=search.ef,
        )
        points = self.catalog.points(collection)
        return RankedSearch(points, mode, query.vector, query.latents, query.text, options, clock)

    async def _answer(
        self, search: SearchIn, pager: Pager, limit: int, collection: Collection, query: EncodedQuery, clock: Clock
    ) -> dict[str, Any]:
        name = name_for(self.caller, search.collection, collection.name)
        language = (await self.catalog.layout(collection)).language if search.highlight else ""

        async def wires(hits: list[Hit]) -> list[dict[str, Any]]:
            with clock.in_store():
                hits = await with_best_parts(hits, query, self.catalog.points(collection))
            if not search.highlight:
                return [hit_wire(name, hit, search, query) for hit in hits]
            marked = await asyncio.to_thread(lambda: [passages(hit.text, query.text, language) for hit in hits])
            return [hit_wire(name, hit, search, query, cut) for hit, cut in zip(hits, marked, strict=True)]

        if search.group_by is None:
            digest = _digest(search, collection)
            page = await self._page(search, digest, pager, limit)
            self._observe(len(page.hits), clock)
            return {"hits": await wires(page.hits), "cursor": _cursor(page, digest), "timings": clock.timings()}
        groups = await pager.groups(search.group_by, limit, search.group_size or 1)
        self._observe(sum(len(group.hits) for group in groups), clock)
        answered = [{"value": group.value, "hits": await wires(group.hits)} for group in groups]
        return {"hits": [], "groups": answered, "cursor": None, "timings": clock.timings()}

    def _observe(self, hits: int, clock: Clock) -> None:
        self.metrics.hits.observe(hits)
        self.metrics.store_seconds.observe(clock.store_ms / 1e3)

    async def _page(self, search: SearchIn, digest: str, pager: Pager, limit: int) -> Page:
        if search.cursor is None:
            return await pager.page(search.offset, limit)
        mark = read_cursor(search.cursor, digest)
        self.bounds.check_depth("cursor", mark.place, limit)
        return await pager.after(mark, limit)


def _digest(search: SearchIn, collection: Collection) -> str:
    """Tell searches with different rankings apart, and a collection from one of the same name before it."""
    owner = repr((search.filter, collection.name, collection.created_at))
    described = search.model_dump_json(exclude=_PAGE_OPTIONS) + owner
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _cursor(page: Page, digest: str) -> str | None:
    if page.place is None:
        return None
    last = page.hits[-1]
    return Mark(page.place, last.score, last.document_id, digest).cursor()
