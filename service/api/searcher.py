"""One search from query to hits: encode the query or take a document's stored embedding, then ask the store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from indexer import filters
from indexer.catalog import Catalog, require_same_model
from indexer.encoder import Encoder, Lane
from indexer.filters import Filter
from indexer.records import Collection, Hit, Point
from indexer.store import Points
from model.errors import NotFound, RetrievalError
from model.inputs import Float32, Limits, Role
from service import inputs
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
    fetcher: ImageFetcher
    limits: Limits
    metrics: Metrics

    async def search(self, wanted: SearchIn) -> dict[str, Any]:
        """`SearchOut` as plain data. Raises what is wrong with the query, `NotFound`, `Conflict` or what does not answer."""
        clock = Clock(time.perf_counter())
        condition = None if wanted.filter is None else filters.parse(wanted.filter)
        collection = await self.catalog.get(wanted.collection)
        encoder = await self.catalog.encoder(collection)
        points = self.catalog.points(collection)
        if wanted.query.document_id is not None:
            vector = (await stored(points, collection.name, wanted.query.document_id)).vector
        else:
            vector = await self._embed(wanted.query, collection, encoder, clock)
        hits = await self._ask(points, wanted, vector, condition, clock)
        self.metrics.hits.observe(len(hits))
        return {"hits": [hit_wire(collection.name, hit) for hit in hits], "timings": clock.wire()}

    async def _embed(self, query: QueryIn, collection: Collection, encoder: Encoder, clock: Clock) -> Float32:
        instruction = collection.instruction if query.instruction is None else query.instruction
        text = " ".join(part for part in (instruction, query.text) if part)
        item = await inputs.read(text, query.image, self.limits, self.fetcher)
        clock.decode_ms = _ms_since(clock.began)
        (result,) = await encoder.encode([item], role=Role.QUERY, lane=Lane.SEARCH)
        if isinstance(result, RetrievalError):
            raise result
        require_same_model(collection, result.fingerprint)
        clock.decode_ms += result.timing.decode_s * 1e3
        clock.queue_ms = result.timing.queue_s * 1e3
        clock.encode_ms = result.timing.encode_s * 1e3
        return result.vector

    async def _ask(
        self, points: Points, wanted: SearchIn, vector: Float32, condition: Filter | None, clock: Clock
    ) -> list[Hit]:
        began = time.perf_counter()
        # A document is the nearest to itself: one more is asked for, and it is left out before the offset counts.
        itself = wanted.query.document_id
        offset, limit = (wanted.offset, wanted.limit) if itself is None else (0, wanted.offset + wanted.limit + 1)
        hits = await points.search(
            vector,
            limit=limit,
            offset=offset,
            condition=condition,
            score_threshold=wanted.score_threshold,
            with_vector=wanted.with_vector,
        )
        if itself is not None:
            hits = [hit for hit in hits if hit.document_id != itself][wanted.offset : wanted.offset + wanted.limit]
        clock.store_ms = _ms_since(began)
        self.metrics.store_seconds.observe(clock.store_ms / 1e3)
        return hits


async def stored(points: Points, collection: str, document_id: str) -> Point:
    (point,) = await points.fetch([document_id])
    if point is None:
        raise NotFound(
            f"there is no document {document_id!r:.100} in collection {collection!r}",
            field="document_id",
            value=document_id,
        )
    return point


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
