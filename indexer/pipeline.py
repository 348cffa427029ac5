"""What happens to one batch between ledger and store: fetch, compare, encode, check, write. Knows nothing of leases and retries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from indexer.blobs import Blobs
from indexer.catalog import mismatch
from indexer.encoder import Encoder, Lane
from indexer.ledger import Batch, Outcome, Status
from indexer.records import Collection, Document, JobKind, Point, content_hash
from indexer.store import Points
from model.errors import DependencyUnavailable, EncodeFailed, RetrievalError
from model.inputs import Embedding, Input, Role

if TYPE_CHECKING:
    from indexer.sources import Fetcher

_FETCHES = 8  # URLs of one batch fetched at a time
_UNIT_TOLERANCE = 1e-3

Item = tuple[int, Document]


@dataclass(frozen=True, slots=True)
class Ready:
    """A document whose image, if it has one, is at hand."""

    position: int
    document: Document
    image: bytes | None
    digest: str | None


@dataclass(slots=True)
class Result:
    """Outcomes, and for documents without one the error that keeps them waiting."""

    outcomes: list[Outcome] = field(default_factory=list)
    waiting: RetrievalError | None = None

    def fail(self, position: int, document: Document, error: RetrievalError) -> None:
        self.outcomes.append(Outcome(position, document.id, Status.FAILED, error.code, error.detail))

    def settle(self, items: Sequence[Ready], status: Status) -> None:
        self.outcomes += [Outcome(item.position, item.document.id, status) for item in items]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Repeating a batch is harmless: point ids derive from document ids, and what is unchanged is not written again."""

    encoder: Encoder
    blobs: Blobs
    fetcher: Fetcher

    async def run(self, batch: Batch, collection: Collection, points: Points, *, last_attempt: bool) -> Result:
        """Raises `RetrievalError` when something that all documents need does not answer; a document's own error is its outcome.

        A URL whose server does not answer keeps that document waiting, or on the last attempt is its failure.
        """
        if batch.kind is JobKind.DELETE:
            await points.delete([document.id for _, document in batch.items])
            return Result([Outcome(position, document.id, Status.INDEXED) for position, document in batch.items])
        info = await self.encoder.info()
        if info.fingerprint != collection.fingerprint:
            raise DependencyUnavailable(mismatch(collection, info.fingerprint))
        result = Result()
        ready = await self._fetch(self._latest(batch.items, result), result, last_attempt=last_attempt)
        changed, hashes = await self._changed(ready, collection, points, result)
        if changed:
            await self._write(changed, hashes, points, result)
        return result

    def _latest(self, items: Sequence[Item], result: Result) -> list[Item]:
        """Of several documents with one id the last; the others are skipped."""
        last = {document.id: position for position, document in items}
        for position, document in items:
            if last[document.id] != position:
                result.outcomes.append(Outcome(position, document.id, Status.SKIPPED))
        return [(position, document) for position, document in items if last[document.id] == position]

    async def _fetch(self, items: Sequence[Item], result: Result, *, last_attempt: bool) -> list[Ready]:
        gate = asyncio.Semaphore(_FETCHES)

        async def one(position: int, document: Document) -> Ready | None:
            if document.image is None:
                return Ready(position, document, None, None)
            if document.image.digest is not None:
                return Ready(position, document, await self.blobs.get(document.image.digest), document.image.digest)
            try:
                async with gate:
                    image = await self.fetcher.fetch(document.image.url or "")
            except RetrievalError as error:
                if error.retryable and not last_attempt:
                    result.waiting = error
                else:
                    result.fail(position, document, error)
                return None
            return Ready(position, document, image, await self.blobs.put(image))

        found = await asyncio.gather(*(one(position, document) for position, document in items))
        return [item for item in found if item is not None]

    async def _changed(
        self, ready: Sequence[Ready], collection: Collection, points: Points, result: Result
    ) -> tuple[list[Ready], dict[int, str]]:
        """Without what the store holds already, text, image, metadata and model alike."""
        hashes = {
            item.position: content_hash(item.document.text, item.digest, item.document.metadata, collection.fingerprint)
            for item in ready
        }
        stored = await points.fetch([item.document.id for item in ready]) if ready else []
        unchanged = {
            item.position
            for item, point in zip(ready, stored, strict=True)
            if point is not None and point.content_hash == hashes[item.position]
        }
        result.settle([item for item in ready if item.position in unchanged], Status.SKIPPED)
        return [item for item in ready if item.position not in unchanged], hashes

    async def _write(self, items: Sequence[Ready], hashes: dict[int, str], points: Points, result: Result) -> None:
        inputs = [Input(item.document.text, item.image) for item in items]
        encoded = await self.encoder.encode(inputs, role=Role.DOCUMENT, lane=Lane.BULK)
        written, batch = [], []
        for item, embedding in zip(items, encoded, strict=True):
            error = embedding if isinstance(embedding, RetrievalError) else unfit(embedding)
            if error is not None and error.retryable:
                result.waiting = error
            elif error is not None:
                result.fail(item.position, item.document, error)
            elif isinstance(embedding, Embedding):
                batch.append(_point(item, embedding, hashes[item.position]))
                written.append(item)
        if batch:
            await points.upsert(batch)
        result.settle(written, Status.INDEXED)


def unfit(embedding: Embedding) -> EncodeFailed | None:
    """What keeps a vector out of the store (promise 12)."""
    vector = embedding.vector
    if not np.isfinite(vector).all():
        return EncodeFailed("the embedding has NaN or infinite values")
    norm = float(np.linalg.norm(vector))
    if abs(norm - 1.0) > _UNIT_TOLERANCE:
        return EncodeFailed(f"the embedding has length {norm:.4g}, expected 1")
    return None


def _point(item: Ready, embedding: Embedding, hashed: str) -> Point:
    return Point(item.document.id, embedding.vector, item.document.text, item.digest, item.document.metadata, hashed)
