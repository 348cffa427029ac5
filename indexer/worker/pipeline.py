"""What happens to one batch between ledger and store. Knows nothing of leases and retries.

items ─► latest of an id ─► image digest ─► changed? ─► text and image bytes ─► encoder ─► finite? ─► image to keep ─► store
         others: skipped    URLs fetched    no: skipped  from the blobs          bulk lane   no: failed
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keeper
from indexer.catalog import mismatch
from indexer.domain.collections import Collection
from indexer.domain.documents import Document, content_hash, stamped
from indexer.domain.jobs import Batch, JobKind, Outcome, Status
from indexer.domain.points import Point
from indexer.encoding.encoder import Encoder, Lane
from indexer.errors import CollectionUnavailable, Died, one_collection_waits
from indexer.store.base import Points
from model.errors import DependencyUnavailable, EncodeFailed, InvalidInput, NotFound, RetrievalError
from model.types import Embedding, Input, ModelInfo, Role

T = TypeVar("T")
_FETCHES = 8  # URLs of one batch fetched at a time
_CALL_IMAGE_BYTES = 64 * 2**20  # held for one encoder call; a batch with more takes several
_NO_DOCUMENT = "\0"  # no id has control characters in it

Hold = Callable[[], Awaitable[None]]


class ImageFetcher(Protocol):
    async def fetch(self, url: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class OneOfTwo:
    """An encoder beside which there is another: away or full, it holds up its own collections only."""

    encoder: Encoder

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        with one_collection_waits():
            return await self.encoder.encode(inputs, role=role, lane=lane)

    async def info(self) -> ModelInfo:
        with one_collection_waits():
            return await self.encoder.info()


@dataclass(slots=True)
class Work:
    """One document on its way; the stages fill in the rest."""

    position: int
    document: Document
    digest: str | None = None  # of its image
    content: str | None = None  # its content hash, where that is known without the original image
    hashed: str = ""


@dataclass(slots=True)
class Result:
    """Outcomes, and for documents without one the error that keeps them waiting."""

    outcomes: list[Outcome] = field(default_factory=list)
    waiting: RetrievalError | None = None

    def settle(self, work: Work, status: Status) -> None:
        self.outcomes.append(Outcome(work.position, work.document.id, status))

    def fail(self, work: Work, error: RetrievalError) -> None:
        self.outcomes.append(Outcome(work.position, work.document.id, Status.FAILED, error.code, error.detail))


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Repeating a batch is harmless: point ids derive from document ids, and what is unchanged is not written again."""

    encoder: Encoder
    blobs: Blobs
    fetcher: ImageFetcher
    keeper: Keeper | None = None  # None: originals are kept

    async def run(
        self, batch: Batch, collection: Collection, points: Points, *, hold: Hold, last_attempt: bool
    ) -> Result:
        """Raises `RetrievalError` when something that all documents need does not answer; a document's own error is its outcome.

        `hold` is awaited before each write; it raises when the batch is not ours any more. A URL whose server does not answer
        keeps that document waiting, or on the last attempt is its failure.
        """
        if batch.kind is JobKind.DELETE:
            await hold()
            with in_store():
                await points.delete([document.id for _, document in batch.items])
            return Result([Outcome(position, document.id, Status.INDEXED) for position, document in batch.items])
        info = await self.encoder.info()
        if info.fingerprint != collection.fingerprint:
            raise CollectionUnavailable(mismatch(collection, info.fingerprint))
        result = Result()
        works = _latest([Work(*item) for item in batch.items], result)
        works = await self._with_images(works, result, last_attempt=last_attempt)
        works = await changed(works, points, collection.fingerprint, result)
        await self.write(works, collection, points, result, hold=hold)
        return result

    async def probe(self, points: Points) -> None:
        """Raises `DependencyUnavailable` where any document would fare as the one to be tried next: an encoder that dies of all
        that it is given, a disk on which the store dies of each write."""
        try:
            await self.encoder.encode([Input("a word")], role=Role.DOCUMENT, lane=Lane.BULK)
            with in_store():
                await points.delete([_NO_DOCUMENT])
        except Died as error:
            away = CollectionUnavailable if isinstance(error, CollectionUnavailable) else DependencyUnavailable
            raise away(error.detail) from error

    async def write(
        self, works: Sequence[Work], collection: Collection, points: Points, result: Result, *, hold: Hold
    ) -> None:
        """From works whose images are blobs to points, or to their failures."""
        async for call in self._calls(works, result):
            embedded = await self._embed(call, collection, result)
            embedded = await self._keep(call, embedded, result)
            await hold()
            await _upsert(embedded, points, result)

    async def _with_images(self, works: Sequence[Work], result: Result, *, last_attempt: bool) -> list[Work]:
        """Every image in the blobs: what is known by its URL is fetched. An image is not held any longer than that."""
        gate = asyncio.Semaphore(_FETCHES)

        async def ready(work: Work) -> bool:
            image = work.document.image
            if image is None or image.url is None:
                work.digest = image.digest if image else None
                return True
            async with gate:
                try:
                    data = await self.fetcher.fetch(image.url)
                except RetrievalError as error:
                    if error.retryable and not last_attempt:
                        result.waiting = error
                    else:
                        result.fail(work, error)
                    return False
                work.digest = await self.blobs.put(data)
            return True

        found = await _together(map(ready, works))
        return [work for work, is_ready in zip(works, found, strict=True) if is_ready]

    async def _calls(self, works: Sequence[Work], result: Result) -> AsyncIterator[list[tuple[Work, Input]]]:
        """The documents with their bytes, in as many encoder calls as keep the bytes bounded."""
        call: list[tuple[Work, Input]] = []
        held_bytes = 0
        for work in works:
            try:
                image = None if work.digest is None else await self.blobs.get(work.digest)
            except NotFound as error:
                result.fail(work, error)
                continue
            call.append((work, Input(work.document.text, image)))
            held_bytes += len(image or b"")
            if held_bytes >= _CALL_IMAGE_BYTES:
                yield call
                call, held_bytes = [], 0
        if call:
            yield call

    async def _embed(
        self, call: Sequence[tuple[Work, Input]], collection: Collection, result: Result
    ) -> list[tuple[Work, Embedding]]:
        encoded = await self.encoder.encode([item for _, item in call], role=Role.DOCUMENT, lane=Lane.BULK)
        if len(call) > 1 and all(isinstance(each, EncodeFailed) for each in encoded):
            raise EncodeFailed(
                f"the model failed on each of {len(call)} documents"
            )  # more likely it than they: try again
        embedded = []
        for (work, _), each in zip(call, encoded, strict=True):
            error = each if isinstance(each, RetrievalError) else unfit(each, collection)
            if error is not None and error.retryable:
                result.waiting = error
            elif error is not None:
                result.fail(work, error)
            elif isinstance(each, Embedding):
                embedded.append((work, each))
        return embedded

    async def _keep(
        self, call: Sequence[tuple[Work, Input]], embedded: Sequence[tuple[Work, Embedding]], result: Result
    ) -> list[tuple[Work, Embedding]]:
        """Each work's digest is from here on that of what is kept of its image; whether it changed was told by the original's."""
        originals = {work.position: item.image for work, item in call}

        async def kept(work: Work) -> bool:
            if self.keeper is not None and work.digest is not None:
                try:
                    work.digest = await self.keeper.keep(work.digest, originals[work.position])
                except InvalidInput as error:
                    result.fail(work, error)
                    return False
            return True

        good = await _together(kept(work) for work, _ in embedded)
        return [each for each, is_good in zip(embedded, good, strict=True) if is_good]


async def _together(calls: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """All side by side; when one raises, the others do not go on behind the back of whoever is told so."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _latest(works: Sequence[Work], result: Result) -> list[Work]:
    """Of several documents with one id the last; the others are skipped."""
    last = {work.document.id: work for work in works}
    for work in works:
        if last[work.document.id] is not work:
            result.settle(work, Status.SKIPPED)
    return list(last.values())


async def changed(works: Sequence[Work], points: Points, fingerprint: str, result: Result) -> list[Work]:
    """Without what the store holds already, text, image, metadata and model alike."""
    with in_store():
        stored = await points.fetch([work.document.id for work in works]) if works else []
    different = []
    for work, point in zip(works, stored, strict=True):
        parts = work.document.text, work.digest, work.document.metadata
        work.hashed = stamped(work.content or content_hash(*parts), fingerprint)
        if point is not None and point.content_hash in (work.hashed, content_hash(*parts, fingerprint)):
            result.settle(work, Status.SKIPPED)
        else:
            different.append(work)
    return different


async def _upsert(embedded: Sequence[tuple[Work, Embedding]], points: Points, result: Result) -> None:
    """All at once; when the store refuses one of them, one by one, so that it harms only itself."""
    if not embedded:
        return
    try:
        with in_store():
            await points.upsert([_point(work, embedding) for work, embedding in embedded])
    except InvalidInput as error:
        if len(embedded) == 1:
            result.fail(embedded[0][0], error)
            return
        for each in embedded:
            await _upsert([each], points, result)
    else:
        for work, _ in embedded:
            result.settle(work, Status.INDEXED)


def unfit(embedding: Embedding, collection: Collection) -> RetrievalError | None:
    """What keeps a vector out of the store (promises 9 and 12). The encoder may have become another one since it was asked."""
    vector = embedding.vector
    if embedding.fingerprint != collection.fingerprint:
        return CollectionUnavailable(mismatch(collection, embedding.fingerprint))
    if vector.shape != (collection.dimensions,):
        return EncodeFailed(f"the embedding has shape {vector.shape}, the collection's is ({collection.dimensions},)")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0:
        return EncodeFailed(f"the embedding has length {norm:g}, which cannot be used")
    return None


def _point(work: Work, embedding: Embedding) -> Point:
    document = work.document
    return Point(
        document_id=document.id,
        vector=embedding.vector,
        text=document.text,
        image_digest=work.digest,
        metadata=document.metadata,
        content_hash=work.hashed,
        shares=embedding.shares,
        latents=embedding.latents,
    )


@contextmanager
def in_store() -> Iterator[None]:
    """A collection that the ledger knows and the store does not is being dropped, or somebody has to bring its files back:
    its documents are not at fault."""
    try:
        yield
    except NotFound as error:
        raise CollectionUnavailable(error.detail) from error
