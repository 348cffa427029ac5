"""The way in: what was posted becomes blobs and ledger batches, in that order, and only then is it accepted (promise 3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from indexer.blobs import Blobs
from indexer.filters import Filter
from indexer.ledger import Ledger
from indexer.records import Collection, Document, ImageRef, Job, JobKind, Metadata, content_id
from indexer.settings import IndexerSettings
from indexer.store import Points
from model.errors import InvalidInput

_DELETE_IDS = 256  # of one batch of a deletion by filter: ids alone, that need no encoder


@dataclass(frozen=True, slots=True)
class Incoming:
    """One posted document that passed the checks at the HTTP edge. At most one of `image` (file bytes) and `image_url`."""

    position: int
    id: str | None = None
    text: str | None = None
    image: bytes | None = None
    image_url: str | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One posted document that is not accepted, and why."""

    position: int
    id: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Accepted:
    job: Job
    rejected: tuple[Rejected, ...]


class Intake:
    """Safe to use from many tasks. `on_accepted` is called after each commit, to wake a worker in the same process."""

    def __init__(
        self, ledger: Ledger, blobs: Blobs, settings: IndexerSettings, *, on_accepted: Callable[[], None] = lambda: None
    ) -> None:
        self._ledger, self._blobs, self._settings, self._on_accepted = ledger, blobs, settings, on_accepted

    async def accept(
        self,
        collection: Collection,
        documents: AsyncIterable[Incoming | Rejected],
        *,
        idempotency_key: str | None = None,
        body_hash: str | None = None,
    ) -> Accepted:
        """Constant memory: a batch is on disk before the next is read. What ends early, by error or cancelling, leaves nothing.

        A job of which every document was rejected has nothing to do and has succeeded; the rejections say why.
        """
        job, new = await self._ledger.call(
            self._ledger.open_job,
            collection.name,
            JobKind.DOCUMENTS,
            idempotency_key=idempotency_key,
            body_hash=body_hash,
        )
        structlog.contextvars.bind_contextvars(job=job.id)
        if not new:
            return Accepted(job, tuple([item async for item in documents if isinstance(item, Rejected)]))
        try:
            rejected = await self._write(job, documents)
            return Accepted(await self._commit(job), rejected)
        except BaseException:
            await asyncio.shield(self._ledger.call(self._ledger.abandon_job, job.id))
            raise

    async def delete(self, collection: Collection, document_ids: Sequence[str]) -> Job:
        """A job like any other, so that it keeps its place among the writes before and after it (promise 4)."""
        if not document_ids:
            raise InvalidInput("no document ids", field="ids")
        size = self._settings.batch_documents
        return await self._delete(
            collection, _each(document_ids[start : start + size] for start in range(0, len(document_ids), size))
        )

    async def delete_matching(self, collection: Collection, points: Points, condition: Filter) -> Job:
        """A job that deletes what is in the index now and fulfils the condition now, named by its ids before it is accepted.

        So it comes after every write that was accepted before it, and before those that follow (promise 4). What was accepted and
        waits to be indexed for the first time is not seen.
        """

        async def matching() -> AsyncIterator[Sequence[str]]:
            after: str | None = None
            while True:
                page = await points.page(after, _DELETE_IDS, condition)
                if page.document_ids:
                    yield page.document_ids
                if page.after is None:
                    return
                after = page.after

        return await self._delete(collection, matching())

    async def _delete(self, collection: Collection, batches: AsyncIterable[Sequence[str]]) -> Job:
        job, _ = await self._ledger.call(self._ledger.open_job, collection.name, JobKind.DELETE)
        structlog.contextvars.bind_contextvars(job=job.id)
        position = 0
        try:
            async for ids in batches:
                items = [(place, Document(key)) for place, key in enumerate(ids, position)]
                await self._ledger.call(self._ledger.append, job.id, items)
                position += len(ids)
            return await self._commit(job)
        except BaseException:
            await asyncio.shield(self._ledger.call(self._ledger.abandon_job, job.id))
            raise

    async def _write(self, job: Job, documents: AsyncIterable[Incoming | Rejected]) -> tuple[Rejected, ...]:
        rejected: list[Rejected] = []
        batch: list[tuple[int, Document]] = []
        count = 0
        async for item in documents:
            count += 1
            if isinstance(item, Rejected):
                rejected.append(item)
                continue
            batch.append((item.position, await self._document(item)))
            if len(batch) == self._settings.batch_documents:
                await self._ledger.call(self._ledger.append, job.id, batch)
                batch = []
        if batch:
            await self._ledger.call(self._ledger.append, job.id, batch)
        if not count:
            raise InvalidInput("no documents in the body", field="documents")
        return tuple(rejected)

    async def _document(self, item: Incoming) -> Document:
        return await document_of(self._blobs, item)

    async def _commit(self, job: Job) -> Job:
        committed = await self._ledger.call(self._ledger.commit_job, job.id)
        self._on_accepted()
        return committed


async def _each(batches: Iterable[Sequence[str]]) -> AsyncIterator[Sequence[str]]:
    for batch in batches:
        yield batch


async def document_of(blobs: Blobs, item: Incoming) -> Document:
    """With its image stored."""
    digest = await blobs.put(item.image) if item.image is not None else None
    image = ImageRef(digest, item.image_url) if digest or item.image_url else None
    key = item.id or content_id(item.text, digest or item.image_url, item.metadata)
    return Document(key, item.text, image, item.metadata)
