"""One search from query to hits: encode the query or take a document's stored embedding, then ask the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from indexer import filters
from indexer.catalog import Catalog, require_same_model
from indexer.encoder import Encoder, Lane
from indexer.filters import Filter
from indexer.records import Collection, Hit, Point
from indexer.store import Points, Store
from model.errors import NotFound, RetrievalError
from model.inputs import Embedding, Input, Limits, Role
from service import inputs
from service.api.explain import Asked, asked, explanation, halves
from service.api.modes import ModeSearch, Wanted
from service.inputs import ImageFetcher
from service.schemas import QueryIn, SearchIn
from service.telemetry import Metrics


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
class Searcher:
    """Safe to call from many tasks at once; holds nothing of a search."""

    catalog: Catalog
    store: Store
    encoder: Encoder
    fetcher: ImageFetcher
    limits: Limits
    metrics: Metrics

    async def search(self, wanted: SearchIn) -> dict[str, Any]:
        """`SearchOut` as plain data. Raises what is wrong with the query, `NotFound`, `Conflict` or what does not answer."""
        clock = Clock(time.perf_counter())
        ranking = Wanted.of(wanted)
        condition = None if wanted.filter is None else filters.parse(wanted.filter)
        collection = await self.catalog.compatible(wanted.collection)
        points = self.store.points(collection.name)
        if wanted.query.document_id is not None:
            point = await stored(points, collection.name, wanted.query.document_id, with_latents=bool(wanted.rerank))
            query = Asked(point.vector, point.shares, latents=point.latents)
            ranking = replace(ranking, text=point.text)
        elif not ranking.embeds:
            inputs.check_text(wanted.query.text, self.limits)
            query = Asked()
        else:
            query = await self._embed(wanted.query, collection, clock, explained=wanted.explain)
        by_mode = ModeSearch(points, ranking, query.vector, query.latents)
        hits = await self._ask(by_mode, wanted, condition, clock)
        self.metrics.hits.observe(len(hits))
        return {"hits": [_wire(collection.name, hit, wanted, query) for hit in hits], "timings": clock.wire()}

    async def _embed(self, query: QueryIn, collection: Collection, clock: Clock, *, explained: bool) -> Asked:
        instruction = collection.instruction if query.instruction is None else query.instruction
        text = " ".join(part for part in (instruction, query.text) if part)
        item = await inputs.read(text, query.image, self.limits, self.fetcher)
        clock.decode_ms = _ms_since(clock.began)
        whole, *parts = await self._encode([item, *(halves(item) if explained else [])], collection)
        clock.decode_ms += whole.timing.decode_s * 1e3
        clock.queue_ms = whole.timing.queue_s * 1e3
        clock.encode_ms = whole.timing.encode_s * 1e3
        return asked(whole, parts)

    async def _encode(self, items: Sequence[Input], collection: Collection) -> list[Embedding]:
        embeddings = []
        for result in await self.encoder.encode(items, role=Role.QUERY, lane=Lane.SEARCH):
            if isinstance(result, RetrievalError):
                raise result
            require_same_model(collection, result.fingerprint)
            embeddings.append(result)
        return embeddings

    async def _ask(self, ranking: ModeSearch, wanted: SearchIn, condition: Filter | None, clock: Clock) -> list[Hit]:
        began = time.perf_counter()
        # A document is the nearest to itself: one more is asked for, and it is left out before the offset counts.
        itself = wanted.query.document_id
        offset, limit = (wanted.offset, wanted.limit) if itself is None else (0, wanted.offset + wanted.limit + 1)
        hits = await ranking.search(
            limit=limit,
            offset=offset,
            condition=condition,
            score_threshold=wanted.score_threshold,
            with_vector=wanted.with_vector or wanted.explain,
        )
        if itself is not None:
            hits = [hit for hit in hits if hit.document_id != itself][wanted.offset : wanted.offset + wanted.limit]
        clock.store_ms = _ms_since(began)
        self.metrics.store_seconds.observe(clock.store_ms / 1e3)
        return hits


async def stored(points: Points, collection: str, document_id: str, *, with_latents: bool = False) -> Point:
    (point,) = await points.fetch([document_id], with_latents=with_latents)
    if point is None:
        raise NotFound(
            f"there is no document {document_id!r:.100} in collection {collection!r}",
            field="document_id",
            value=document_id,
        )
    return point


def _wire(collection: str, hit: Hit, wanted: SearchIn, query: Asked) -> dict[str, Any]:
    wire = hit_wire(collection, hit if wanted.with_vector else replace(hit, vector=None))
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
