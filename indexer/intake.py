"""The way in: what was posted becomes blobs and ledger batches, in that order, and only then is it accepted (promise
3).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from indexer.blobs.image_store import Blobs
from indexer.domain.collections import Collection
from indexer.domain.documents import Document, ImageRef, Incoming, Rejected, content_id
from indexer.domain.jobs import Job, JobKind
from indexer.filters import Filter
from indexer.ledger.ledger import Ledger
from indexer.ledger.submissions import OPEN_S
from indexer.loops import WakeUps, heartbeat
from indexer.settings import IndexerSettings
from indexer.store.base import Points
from model.errors import InvalidInput, TooLarge

T = TypeVar("T")

_PLAIN_ITEMS = 256  # of one batch that needs no encoder: of a deletion or an update


@dataclass(frozen=True, slots=True)
class Accepted:
    """`rejected` are the first of those that were; `rejected_codes` counts them all."""

    job: Job
    rejected: tuple[Rejected, ...]
    rejected_codes: Counter[str]


class Intake:
    """Safe to use from many tasks. Each commit wakes the workers of this process."""

    def __init__(
        self,
        ledger: Ledger,
        blobs: Blobs,
        settings: IndexerSettings,
        *,
        wakeups: WakeUps | None = None,
        beat_s: float = OPEN_S / 5,
    ) -> None:
        self._beat_s = beat_s
        self._ledger, self._blobs, self._settings, self._wakeups = ledger, blobs, settings, wakeups or WakeUps()

    async def accept(
        self,
        collection: Collection,
        documents: AsyncIterable[Incoming | Rejected],
        *,
        kind: JobKind = JobKind.DOCUMENTS,
        idempotency_key: str | None = None,
        body_hash: Callable[[], str] | None = None,
        max_rejected: int = 10_000,
    ) -> Accepted:
        """Accept documents, or patches of documents with `UPDATE`, as a job, in constant memory: each batch is on disk
        before the next is read. A call that ends early, by an error or by cancellation, leaves nothing.

        A job whose documents were all rejected has nothing to do and has succeeded; at most `max_rejected` rejections
        are kept. `body_hash` is called when all documents are read. Raises `Conflict`, with nothing accepted, if the
        job of this `idempotency_key` had another body.
        """
        rejections = _Rejections(max_rejected)
        read = rejections.taken_from(documents)
        job, new = await self._ledger.submissions.open(
            collection.name,
            kind,
            idempotency_key=idempotency_key,
        )
        structlog.contextvars.bind_contextvars(job=job.id)
        if not new:
            async for _ in read:
                pass
            if body_hash is not None:
                await self._ledger.submissions.check_body(job.id, body_hash())
            return rejections.beside(job)
        async with self._open(job):
            await self._write(job, read)
            return rejections.beside(await self._commit(job, body_hash() if body_hash else None))

    async def delete(self, collection: Collection, document_ids: Sequence[str]) -> Job:
        """Delete documents by a job, so that the deletion keeps its place among the writes before and after it."""
        if not document_ids:
            raise InvalidInput("no document ids", field="ids")
        size = self._settings.batch_documents
        batches = each_of(document_ids[start : start + size] for start in range(0, len(document_ids), size))
        return await self._submit(collection, JobKind.DELETE, batches, Document)

    async def delete_matching(self, collection: Collection, points: Points, condition: Filter) -> Job:
        """Delete by a job the documents in the index that satisfy the condition now. Their ids are collected before the
        job is accepted.

        So the deletion comes after every write accepted before it, and before those that follow. Documents that wait to
        be indexed for the first time do not match.
        """
        return await self._submit(collection, JobKind.DELETE, _matching(points, condition), Document)

    async def update_matching(
        self,
        collection: Collection,
        points: Points,
        condition: Filter,
        patch: dict[str, Any],
        limit: int,
        *,
        idempotency_key: str | None = None,
        body_hash: str | None = None,
    ) -> Job:
        """Update by a job the documents in the index that satisfy the condition now, as `delete_matching` deletes them.
        Raises `TooLarge` if there are more than `limit`, with nothing changed, and `Conflict` as `accept` does."""

        async def within_limit() -> AsyncIterator[Sequence[str]]:
            if (count := await points.count(condition)) > limit:
                raise _too_many(count, limit)
            count = 0
            async for ids in _matching(points, condition):
                if (count := count + len(ids)) > limit:
                    raise _too_many(count, limit)
                yield ids

        return await self._submit(
            collection,
            JobKind.UPDATE,
            within_limit(),
            lambda key: Document(key, metadata=patch),
            idempotency_key=idempotency_key,
            body_hash=body_hash,
        )

    async def copy(self, origin: Collection, points: Points, condition: Filter | None, target: Collection) -> Job:
        """Copy by a job of `target` the documents in the index of `origin` that satisfy the condition now, each as it
        stands when its turn comes."""
        of_origin = {"from": origin.name}
        return await self._submit(
            target, JobKind.COPY, _matching(points, condition), lambda key: Document(key, metadata=of_origin)
        )

    async def _submit(
        self,
        collection: Collection,
        kind: JobKind,
        batches: AsyncIterable[Sequence[str]],
        item: Callable[[str], Document],
        *,
        idempotency_key: str | None = None,
        body_hash: str | None = None,
    ) -> Job:
        job, new = await self._ledger.submissions.open(collection.name, kind, idempotency_key=idempotency_key)
        structlog.contextvars.bind_contextvars(job=job.id)
        if not new:
            await self._ledger.submissions.check_body(job.id, body_hash or "")
            return job
        position = 0
        async with self._open(job):
            async for ids in batches:
                items = [(place, item(key)) for place, key in enumerate(ids, position)]
                await self._ledger.submissions.append(job.id, items)
                position += len(ids)
            return await self._commit(job, body_hash)

    @asynccontextmanager
    async def _open(self, job: Job) -> AsyncIterator[None]:
        """Keep `job` open in the ledger while it is being received. One that ends early is abandoned."""
        async with heartbeat(lambda: self._ledger.submissions.keep_open(job.id), self._beat_s):
            try:
                yield
            except BaseException:
                await asyncio.shield(self._ledger.submissions.abandon(job.id))
                raise

    async def _write(self, job: Job, documents: AsyncIterable[Incoming]) -> None:
        size = self._settings.batch_documents if job.kind is JobKind.DOCUMENTS else _PLAIN_ITEMS
        batch: list[tuple[int, Document]] = []
        async for item in documents:
            batch.append((item.position, await self._document(item)))
            if len(batch) == size:
                await self._ledger.submissions.append(job.id, batch)
                batch = []
        if batch:
            await self._ledger.submissions.append(job.id, batch)

    async def _document(self, item: Incoming) -> Document:
        return await document_of(self._blobs, item)

    async def _commit(self, job: Job, body_hash: str | None = None) -> Job:
        committed = await self._ledger.submissions.commit(job.id, body_hash=body_hash)
        self._wakeups.work_arrived()
        return committed


class _Rejections:
    """Taken out of the stream of one call: the first `limit`, and how many of each code."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._first: list[Rejected] = []
        self._codes: Counter[str] = Counter()

    async def taken_from(self, documents: AsyncIterable[Incoming | Rejected]) -> AsyncIterator[Incoming]:
        """Yield the documents and collect the rejections. Raises `InvalidInput` at the end if there was neither."""
        some = False
        async for item in documents:
            some = True
            if isinstance(item, Incoming):
                yield item
                continue
            self._codes[item.code] += 1
            if len(self._first) < self._limit:
                self._first.append(item)
        if not some:
            raise InvalidInput("no documents in the body", field="documents")

    def beside(self, job: Job) -> Accepted:
        return Accepted(job, tuple(self._first), self._codes)


async def _matching(points: Points, condition: Filter | None) -> AsyncIterator[Sequence[str]]:
    """Yield the ids of the documents in the index, or of those that satisfy a condition."""
    after: str | None = None
    while True:
        page = await points.page(after, _PLAIN_ITEMS, condition)
        if page.document_ids:
            yield page.document_ids
        if page.after is None:
            return
        after = page.after


def _too_many(count: int, limit: int) -> TooLarge:
    return TooLarge(
        f"the filter matches {count} documents or more, limit is {limit} for one update: narrow the filter and send "
        "several updates",
        field="filter",
        value=count,
        limit=limit,
    )


async def each_of(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield items that are there already as if they were still coming in."""
    for item in items:
        yield item


async def document_of(blobs: Blobs, item: Incoming) -> Document:
    """Store the images of an incoming document, and return the document."""
    digest = await blobs.put(item.image) if item.image is not None else None
    image = ImageRef(digest, item.image_url) if digest or item.image_url else None
    further = [
        ImageRef(url=source) if isinstance(source, str) else ImageRef(await blobs.put(source))
        for source in item.more_images
    ]
    sources = [reference.digest or reference.url or "" for reference in further]
    key = item.id or content_id(item.text, digest or item.image_url, item.metadata, sources)
    return Document(key, item.text, image, item.metadata, item.vector, tuple(further))
