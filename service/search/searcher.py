"""One search from query to hits: encode the query or take a document's stored embedding, then ask the store."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from indexer import filters
from indexer.catalog import Catalog, require_same_model
from indexer.domain.collections import Collection
from indexer.domain.points import Hit, Point
from indexer.encoding.encoder import Encoder, Lane
from indexer.filters import AllOf, Filter
from indexer.store.base import Points, SearchWindow
from model.errors import InvalidInput, NotFound, RetrievalError, TimedOut
from model.types import Embedding, Input, Limits, Role
from service.inputs import inputs
from service.inputs.inputs import ImageFetcher
from service.keys import Key
from service.observability.metrics import Metrics
from service.schemas.search import MAX_GROUPS, QueryIn, SearchIn
from service.search import examples
from service.search.explain import Asked, asked, explanation, halves
from service.search.modes import ModeSearch, Wanted
from service.search.paging import Group, Mark, Page, Ranking, read_cursor, selected

DEFAULT_LIMIT = 10  # hits, where neither the search nor the collection says


@dataclass(slots=True)
class Clock:
    """Milliseconds per stage of one search. Decoding includes fetching the query's image."""

    began: float
    decode_ms: float = 0.0
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    store_ms: float = 0.0

    def wire(self) -> dict[str, float]:
        stages = {
            "decode_ms": self.decode_ms,
            "queue_ms": self.queue_ms,
            "encode_ms": self.encode_ms,
            "store_ms": self.store_ms,
        }
        return {name: round(value, 3) for name, value in (stages | {"total_ms": _ms_since(self.began)}).items()}


@dataclass(frozen=True, slots=True)
class SearchBounds:
    """`depth`: of a ranking, as many hits can be reached."""

    hits: int
    depth: int
    timeout_s: float

    def default_limit(self, wanted: SearchIn, collection: Collection) -> int:
        """The collection's own may be over a bound that was set later."""
        most = min(self.hits, self.depth) if wanted.group_by is None else min(self.hits, MAX_GROUPS)
        return min(collection.limit or DEFAULT_LIMIT, most)

    def check(self, wanted: SearchIn, limit: int) -> None:
        """Raises `InvalidInput` naming the field, its value and the limit."""
        if limit > self.hits:
            raise InvalidInput(f"limit is {limit}, at most {self.hits}", field="limit", value=limit, limit=self.hits)
        if wanted.offset + limit > self.depth:
            raise _too_deep("offset", wanted.offset, limit, self.depth)
        if wanted.group_by is not None and limit > MAX_GROUPS:
            raise InvalidInput(
                f"limit is {limit} groups, at most {MAX_GROUPS}", field="limit", value=limit, limit=MAX_GROUPS
            )
        if wanted.group_by is not None and limit * (wanted.group_size or 1) > self.hits:
            raise InvalidInput(
                f"limit x group_size is {limit} x {wanted.group_size}, at most {self.hits} hits",
                field="group_size",
                value=wanted.group_size,
                limit=self.hits,
            )
        if wanted.timeout_s is not None and wanted.timeout_s > self.timeout_s:
            raise InvalidInput(
                f"timeout_s is {wanted.timeout_s:g}, at most {self.timeout_s:g}",
                field="timeout_s",
                value=wanted.timeout_s,
                limit=self.timeout_s,
            )


def _too_deep(field: str, begin: int, limit: int, depth: int) -> InvalidInput:
    return InvalidInput(
        f"the page would end at hit {begin + limit}, a ranking can be walked to hit {depth}: narrow it by a filter",
        field=field,
        value=begin,
        limit=depth,
    )


@dataclass(frozen=True, slots=True)
class Searcher:
    """Safe to call from many tasks at once; holds nothing of a search."""

    catalog: Catalog
    fetcher: ImageFetcher
    limits: Limits
    bounds: SearchBounds
    metrics: Metrics
    caller: Key

    async def search(self, wanted: SearchIn) -> dict[str, Any]:
        """`SearchOut` as plain data. Raises what is wrong with the query, `NotFound`, `Conflict` or what does not answer."""
        self.caller.require(wanted.collection)
        try:
            async with asyncio.timeout(wanted.timeout_s):
                return await self._search(wanted)
        except TimeoutError as error:
            raise TimedOut(
                f"no answer within {wanted.timeout_s:g} s", field="timeout_s", limit=wanted.timeout_s
            ) from error

    async def _search(self, wanted: SearchIn) -> dict[str, Any]:
        clock = Clock(time.perf_counter())
        mode = Wanted.of(wanted)
        condition = None if wanted.filter is None else filters.parse(wanted.filter)
        if wanted.group_by is not None:
            filters.check_field(wanted.group_by, "group_by")
        collection = await self.catalog.get(wanted.collection)
        limit = wanted.limit or self.bounds.default_limit(wanted, collection)
        self.bounds.check(wanted, limit)
        if condition is not None:
            filters.check_types(condition, collection.indexes)
        encoder = await self.catalog.encoder(collection)
        points = self.catalog.points(collection)
        query = await self._asked(wanted, mode, collection, encoder, points, clock)
        by_mode = ModeSearch(points, mode, query.vector, query.latents, query.text)
        ask = partial(self._ask, by_mode, wanted, condition, clock)
        ranking = Ranking(ask, frozenset(examples.document_ids(wanted.query)), self.bounds.depth, mode.steady)
        found = await self._found(ranking, wanted, limit)
        self.metrics.store_seconds.observe(clock.store_ms / 1e3)
        parts = [found] if isinstance(found, Page) else found
        self.metrics.hits.observe(sum(len(part.hits) for part in parts))
        wires = [[_wire(collection.name, hit, wanted, query) for hit in part.hits] for part in parts]
        if isinstance(found, Page):
            return {"hits": wires[0], "cursor": _cursor(found, wanted), "timings": clock.wire()}
        groups = [{"value": group.value, "hits": wire} for group, wire in zip(found, wires, strict=True)]
        return {"hits": [], "groups": groups, "cursor": None, "timings": clock.wire()}

    async def _found(self, ranking: Ranking, wanted: SearchIn, limit: int) -> Page | list[Group]:
        if wanted.group_by is not None:
            return await ranking.groups(wanted.group_by, limit, wanted.group_size or 1)
        if wanted.cursor is None:
            return await ranking.page(wanted.offset, limit)
        mark = read_cursor(wanted.cursor, _digest(wanted))
        if mark.place + limit > self.bounds.depth:
            raise _too_deep("cursor", mark.place, limit, self.bounds.depth)
        return await ranking.after(mark, limit)

    async def _asked(
        self,
        wanted: SearchIn,
        mode: Wanted,
        collection: Collection,
        encoder: Encoder,
        points: Points,
        clock: Clock,
    ) -> Asked:
        """What is searched with. Of several examples it is their vector alone: only of one thing can it be said what is in it."""
        query = wanted.query
        ids = examples.document_ids(query)
        known = await stored_all(points, collection.name, ids, with_latents=mode.reranks)
        text = query.text if query.document_id is None else known[0].text
        if not mode.embeds:
            inputs.check_text(text, self.limits)
            return Asked(known[0].vector, known[0].shares, text=text) if known else Asked(text=text)
        alone = len(ids) + len(examples.to_encode(query)) == 1
        encoded, parts = await self._embed(query, collection, encoder, clock, halved=wanted.explain and alone)
        stored_vectors = {point.document_id: point.vector for point in known}
        vector = examples.vector_of(query, [one.vector for one in encoded], stored_vectors)
        if not alone:
            return Asked(vector, text=text)
        if known:
            return Asked(vector, known[0].shares, latents=known[0].latents, text=text)
        return replace(asked(encoded[0], parts), text=text)

    async def _embed(
        self, query: QueryIn, collection: Collection, encoder: Encoder, clock: Clock, *, halved: bool
    ) -> tuple[list[Embedding], list[Embedding]]:
        """What the query has of text and images, each as one embedding, and with `halved` the two halves of the first; all in
        one call."""
        instruction = collection.instruction if query.instruction is None else query.instruction
        items = []
        for one in examples.to_encode(query):
            text = " ".join(part for part in (instruction, one.text) if part)
            items.append(await inputs.read(text, one.image, self.limits, self.fetcher))
        if not items:
            return [], []
        clock.decode_ms = _ms_since(clock.began)
        embeddings = await _encode([*items, *(halves(items[0]) if halved else [])], collection, encoder)
        # One batch as a rule: the time of the whole is that of the slowest.
        clock.decode_ms += max(one.timing.decode_s for one in embeddings) * 1e3
        clock.queue_ms = max(one.timing.queue_s for one in embeddings) * 1e3
        clock.encode_ms = max(one.timing.encode_s for one in embeddings) * 1e3
        return embeddings[: len(items)], embeddings[len(items) :]

    async def _ask(
        self,
        ranking: ModeSearch,
        wanted: SearchIn,
        condition: Filter | None,
        clock: Clock,
        offset: int,
        limit: int,
        beside: Filter | None,
    ) -> list[Hit]:
        """A window of the ranking."""
        began = time.perf_counter()
        of = tuple(one for one in (condition, beside) if one is not None)
        window = SearchWindow(
            limit,
            offset,
            condition=AllOf(of) if len(of) > 1 else next(iter(of), None),
            score_threshold=wanted.score_threshold,
            with_vector=wanted.with_vector or wanted.explain,
            consistency=wanted.consistency,
            timeout_s=max(0.0, (wanted.timeout_s or self.bounds.timeout_s) - (began - clock.began)),
        )
        hits = await ranking.search(window)
        clock.store_ms += _ms_since(began)
        return hits


async def _encode(items: Sequence[Input], collection: Collection, encoder: Encoder) -> list[Embedding]:
    embeddings = []
    for result in await encoder.encode(items, role=Role.QUERY, lane=Lane.SEARCH):
        if isinstance(result, RetrievalError):
            raise result
        require_same_model(collection, result.fingerprint)
        embeddings.append(result)
    return embeddings


# What may differ from page to page.
_OF_THE_PAGE = {"cursor", "limit", "offset", "metadata_fields", "with_vector", "timeout_s", "consistency"}


def _digest(wanted: SearchIn) -> str:
    """Tells searches with different rankings apart."""
    return hashlib.sha256(wanted.model_dump_json(exclude=_OF_THE_PAGE).encode()).hexdigest()[:16]


def _cursor(page: Page, wanted: SearchIn) -> str | None:
    if page.place is None:
        return None
    last = page.hits[-1]
    return Mark(page.place, last.score, last.document_id, _digest(wanted)).cursor()


async def stored(points: Points, collection: str, document_id: str) -> Point:
    return (await stored_all(points, collection, [document_id]))[0]


async def stored_all(
    points: Points, collection: str, document_ids: Sequence[str], *, with_latents: bool = False
) -> list[Point]:
    """Raises `NotFound` naming the first that is not there."""
    found = []
    fetched = await points.fetch(document_ids, with_latents=with_latents) if document_ids else []
    for document_id, point in zip(document_ids, fetched, strict=True):
        if point is None:
            raise NotFound(
                f"there is no document {document_id!r:.100} in collection {collection!r}",
                field="document_id",
                value=document_id,
            )
        found.append(point)
    return found


def _wire(collection: str, hit: Hit, wanted: SearchIn, query: Asked) -> dict[str, Any]:
    wire = hit_wire(collection, hit if wanted.with_vector else replace(hit, vector=None))
    wire["metadata"] = selected(hit.metadata, wanted.metadata_fields)
    return {**wire, "explanation": explanation(query, hit)} if wanted.explain else wire


def hit_wire(collection: str, hit: Hit) -> dict[str, Any]:
    wire = {"id": hit.document_id, "score": hit.score, **content_wire(collection, hit)}
    return wire if hit.vector is None else {**wire, "vector": hit.vector}


def content_wire(collection: str, found: Hit | Point) -> dict[str, Any]:
    return {
        "text": found.text,
        "image_url": image_url(collection, found.document_id, found.image_digest),
        "metadata": dict(found.metadata),
    }


def image_url(collection: str, document_id: str, digest: str | None) -> str | None:
    """A path of this service. The image's digest is part of it, so that a browser may keep what it got for good."""
    if digest is None:
        return None
    return f"/collections/{quote(collection)}/documents/{quote(document_id, safe='')}/image?v={digest[:16]}"


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3
