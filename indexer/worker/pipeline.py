"""What happens to one batch between ledger and store. Knows nothing of leases and retries.

items ─► latest of an id ─► image digests ─► changed? ─► text and image bytes ─► parts ─► encoder ─► finite? ─► images to keep ─► store
         others: skipped    URLs fetched     no: skipped  from the blobs                   bulk lane   no: failed
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keeper
from indexer.catalog import mismatch, not_served
from indexer.domain.collections import Collection, Reindex
from indexer.domain.documents import Document, content_hash, stamped, written_spans
from indexer.domain.jobs import Batch, JobKind, Outcome, Status
from indexer.domain.points import Part, Point
from indexer.encoding.encoder import Encoder, Lane
from indexer.encoding.registry import Encoders
from indexer.errors import CollectionUnavailable, Died, ModelUnavailable, one_collection_waits
from indexer.store.base import Points
from indexer.worker.parts import dropped_tokens, inputs_of, parts_of, passages_of, point_of
from model.errors import (
    Conflict,
    DependencyUnavailable,
    EncodeFailed,
    InvalidInput,
    NotFound,
    Overloaded,
    RateLimited,
    RetrievalError,
)
from model.passages import Cut, Passages
from model.types import Embedding, Input, ModelInfo, Role

T = TypeVar("T")
# URLs of one batch that are fetched at a time.
_FETCHES = 8
# Images held for one encoder call; a batch with more takes several.
_CALL_IMAGE_BYTES = 64 * 2**20
# No document id has control characters in it.
_NO_DOCUMENT = "\0"

# Awaited before each write. Raises when the lease of the batch was lost.
HoldLease = Callable[[], Awaitable[None]]


class ImageFetcher(Protocol):
    async def fetch(self, url: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class CollectionEncoder:
    """The encoder whose model fills a collection, or its other generation. It is found when it is used: a deletion
    needs none.

    When its model is unavailable, only the collections of that model wait; when all models are in one process and that
    does not answer, everything waits.
    """

    encoders: Encoders
    target: Collection | Reindex

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        with self._waiting():
            encoder, _ = await self._match()
            return await encoder.encode(inputs, role=role, lane=lane)

    async def passages(self, texts: Sequence[str], cut: Cut) -> list[Passages]:
        with self._waiting():
            encoder, _ = await self._match()
            return await encoder.passages(texts, cut)

    async def info(self) -> ModelInfo:
        with self._waiting():
            return (await self._match())[1]

    async def _match(self) -> tuple[Encoder, ModelInfo]:
        match = await self.encoders.by_fingerprint(self.target.fingerprint, self.target.model)
        if match is None:
            raise CollectionUnavailable(await not_served(self.encoders, self.target))
        return match

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            with nullcontext() if self.encoders.alone else one_collection_waits():
                yield
        except ModelUnavailable as error:
            raise CollectionUnavailable(error.detail) from error


@dataclass(slots=True)
class IndexedDocument:
    """One document on its way into the index. Each stage fills in its part, and passes over documents that are
    `closed`.

    `digests` are those of the original images until the images to keep are stored. `content` is the content hash where
    it is known without the original images; `stamp` is the content hash with its model. `embeddings` has one for each
    of `parts`.
    """

    position: int
    document: Document
    digests: tuple[str, ...] = ()
    content: str | None = None
    stamp: str = ""
    images: tuple[bytes, ...] = ()
    passages: Passages = field(default_factory=lambda: Passages(()))
    parts: Sequence[Part] = ()
    embeddings: Sequence[Embedding] = ()
    outcome: Outcome | None = None
    waiting: RetrievalError | None = None

    @property
    def closed(self) -> bool:
        """Whether there is nothing more to do with it now: it has an outcome, or waits for a later attempt."""
        return self.outcome is not None or self.waiting is not None

    def settle(self, status: Status) -> None:
        truncated = dropped_tokens(self.passages, self.embeddings) if self.embeddings else 0
        self.outcome = Outcome(self.position, self.document.id, status, truncated=truncated)

    def refuse(self, part: Part, error: RetrievalError) -> None:
        """Wait or fail because of a part that has no embedding."""
        if error.retryable:
            self.waiting = error
        else:
            place = f"image {part.image + 1} of {len(self.document.images)}: " if part.image else ""
            self.fail(error, place)

    def fail(self, error: RetrievalError, place: str = "") -> None:
        self.outcome = Outcome(self.position, self.document.id, Status.FAILED, error.code, place + error.detail)

    def point(self) -> Point:
        """Return what the store keeps of it. It must have its embeddings."""
        return point_of(self.document, self.parts, self.embeddings, self.digests, self.stamp)

    def inputs(self) -> list[Input]:
        return inputs_of(self.document, self.parts, self.images)

    def let_go(self) -> None:
        """Forget what the store has now."""
        self.images, self.embeddings = (), ()


@dataclass(slots=True)
class Result:
    """The outcomes of a batch, and for documents without one the error that keeps them waiting."""

    outcomes: list[Outcome] = field(default_factory=list)
    waiting: RetrievalError | None = None

    @classmethod
    def of(cls, documents: Sequence[IndexedDocument]) -> Result:
        outcomes = [document.outcome for document in documents if document.outcome is not None]
        return cls(outcomes, next((document.waiting for document in documents if document.waiting), None))

    @classmethod
    def alike(cls, batch: Batch, status: Status, code: str | None = None, detail: str | None = None) -> Result:
        """Return the same outcome for all documents of a batch."""
        return cls([Outcome(position, document.id, status, code, detail) for position, document in batch.items])

    def merge(self, addition: Result) -> None:
        self.outcomes += addition.outcomes
        self.waiting = self.waiting or addition.waiting


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Repeating a batch is harmless: point ids derive from document ids, and unchanged documents are not written again.

    Without a `keeper` the original images are kept. While the image storage does not answer, only the collection waits
    whose images are needed: documents of others may have none. With `rewrites` unchanged documents are written too:
    another copy of the store may have them differently.
    """

    encoder: Encoder
    blobs: Blobs
    fetcher: ImageFetcher
    keeper: Keeper | None = None
    rewrites: bool = False

    async def run(
        self, batch: Batch, collection: Collection, points: Points, *, hold: HoldLease, last_attempt: bool
    ) -> Result:
        """Index or delete the documents of a batch.

        Raises `RetrievalError` when something that all documents need does not answer; a document's own error is its
        outcome. A URL whose host does not answer keeps its document waiting, or on the last attempt is its failure.
        """
        if batch.kind is JobKind.DELETE:
            await hold()
            with store_errors():
                await points.delete([document.id for _, document in batch.items])
            return Result.alike(batch, Status.INDEXED)
        info = await self.encoder.info()
        if info.fingerprint != collection.fingerprint:
            raise CollectionUnavailable(mismatch(collection, info.fingerprint))
        documents = [IndexedDocument(position, document) for position, document in batch.items]
        _skip_superseded(documents)
        await self._store_images(documents, last_attempt=last_attempt)
        await skip_unchanged(documents, points, collection, rewrites=self.rewrites)
        await self.write(documents, collection, points, hold=hold)
        return Result.of(documents)

    async def probe(self, points: Points) -> None:
        """Raise `DependencyUnavailable` where any document would fare as the one to be tried next: an encoder that dies
        of every input, a disk on which the store dies of every write.
        """
        try:
            await self.encoder.encode([Input("a word")], role=Role.DOCUMENT, lane=Lane.BULK)
            with store_errors():
                await points.delete([_NO_DOCUMENT])
        except Died as error:
            kind = CollectionUnavailable if isinstance(error, CollectionUnavailable) else DependencyUnavailable
            raise kind(error.detail) from error

    async def write(
        self, documents: Sequence[IndexedDocument], collection: Collection, points: Points, *, hold: HoldLease
    ) -> None:
        """Embed documents whose images are stored, and write their points."""
        await self._cut(_open(documents), collection, points)
        async for call in self._encoder_calls(documents):
            await self._write_call(call, collection, points, hold=hold)

    async def _cut(self, documents: Sequence[IndexedDocument], collection: Collection, points: Points) -> None:
        """Find the parts of each document."""
        if not documents:
            return
        with store_errors():
            layout = await points.layout()
        contents = [document.document for document in documents]
        info = await self.encoder.info()
        passages = await passages_of(contents, collection, layout, info, self.encoder.passages)
        for document, cut in zip(documents, passages, strict=True):
            try:
                document.passages, document.parts = cut, parts_of(document.document, cut, layout)
            except InvalidInput as error:
                document.fail(error)

    async def _write_call(
        self, call: Sequence[IndexedDocument], collection: Collection, points: Points, *, hold: HoldLease
    ) -> None:
        """Embed and write the documents of one encoder call, in halves if the encoder has no room for all of them.

        A large call might never find room beside many small ones of other callers.
        """
        try:
            await self._embed(call, collection)
        except Overloaded as error:
            # The inputs of one document were divided already.
            if len(call) == 1 or isinstance(error, RateLimited):
                raise
            middle = len(call) // 2
            for half in (call[:middle], call[middle:]):
                await self._write_call(half, collection, points, hold=hold)
            return
        await self._keep_images(call)
        await hold()
        await _upsert(_open(call), points)
        for document in call:
            document.let_go()

    async def _store_images(self, documents: Sequence[IndexedDocument], *, last_attempt: bool) -> None:
        """Fetch the images that are known by their URL, so that the blobs have all of them. No image is held longer
        than that.
        """
        places = asyncio.Semaphore(_FETCHES)

        async def store(document: IndexedDocument) -> None:
            digests: list[str] = []
            for image in document.document.images:
                if image.url is None:
                    digests += [] if image.digest is None else [image.digest]
                    continue
                async with places:
                    try:
                        data = await self.fetcher.fetch(image.url)
                    except RetrievalError as error:
                        if error.retryable and not last_attempt:
                            document.waiting = error
                        else:
                            document.fail(error)
                        return
                    with one_collection_waits():
                        digests.append(await self.blobs.put(data))
            document.digests = tuple(digests)

        await _gather_or_cancel(map(store, _open(documents)))

    async def _encoder_calls(self, documents: Sequence[IndexedDocument]) -> AsyncIterator[list[IndexedDocument]]:
        """Read the images, and yield the documents in as many encoder calls as keep the bytes bounded."""
        call: list[IndexedDocument] = []
        image_bytes = 0
        for document in _open(documents):
            try:
                with one_collection_waits():
                    document.images = tuple([await self.blobs.get(digest) for digest in document.digests])
            except NotFound as error:
                document.fail(error)
                continue
            call.append(document)
            image_bytes += sum(map(len, document.images))
            if image_bytes >= _CALL_IMAGE_BYTES:
                yield call
                call, image_bytes = [], 0
        if call:
            yield call

    async def _embed(self, call: Sequence[IndexedDocument], collection: Collection) -> None:
        has_vectors = any(document.document.vector for document in call)
        # A model of several latents made more of a document than the one vector, as several parts have.
        if has_vectors and (await self.encoder.info()).latents == 1:
            for document in call:
                document.embeddings = given_embeddings(document.document, document.parts, collection)
        call = [document for document in call if not document.embeddings]
        if not call:
            return
        inputs = [document.inputs() for document in call]
        results = await self._encode([item for items in inputs for item in items], divisible=len(call) == 1)
        if len(call) > 1 and all(isinstance(result, EncodeFailed) for result in results):
            # The model is more likely at fault than all of the documents: try again.
            raise EncodeFailed(f"the model failed on each of {len(call)} documents")
        following = iter(results)
        for document, items in zip(call, inputs, strict=True):
            embeddings: list[Embedding] = []
            for part, result in zip(document.parts, islice(following, len(items)), strict=True):
                error = result if isinstance(result, RetrievalError) else unusable(result, collection)
                if error is None and isinstance(result, Embedding):
                    embeddings.append(result)
                elif error is not None and not document.closed:
                    document.refuse(part, error)
            document.embeddings = embeddings

    async def _encode(self, inputs: Sequence[Input], *, divisible: bool) -> list[Embedding | RetrievalError]:
        """Embed inputs, in halves if the encoder has no room for all and they are `divisible`: those of one document,
        of which only all together can be written."""
        try:
            return await self.encoder.encode(inputs, role=Role.DOCUMENT, lane=Lane.BULK)
        except Overloaded as error:
            if not divisible or len(inputs) == 1 or isinstance(error, RateLimited):
                raise
        middle = len(inputs) // 2
        halves = [await self._encode(half, divisible=True) for half in (inputs[:middle], inputs[middle:])]
        return halves[0] + halves[1]

    async def _keep_images(self, call: Sequence[IndexedDocument]) -> None:
        """Replace each digest by that of the stored thumbnail.

        Change detection has already used the originals' digests.
        """
        keeper = self.keeper
        if keeper is None:
            return

        async def keep(document: IndexedDocument) -> None:
            digests: list[str] = []
            for digest, image in zip(document.digests, document.images, strict=True):
                try:
                    with one_collection_waits():
                        small = await keeper.keep(digest, image)
                except InvalidInput as error:
                    document.fail(error)
                    return
                digests += [] if small is None else [small]
            document.digests = tuple(digests)

        await _gather_or_cancel(map(keep, _open(call)))


def _open(documents: Sequence[IndexedDocument]) -> list[IndexedDocument]:
    return [document for document in documents if not document.closed]


async def _gather_or_cancel(calls: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Run concurrently; if one raises, cancel the rest before re-raising."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _skip_superseded(documents: Sequence[IndexedDocument]) -> None:
    """Skip all but the last of several documents with one id."""
    last = {document.document.id: document for document in documents}
    for document in documents:
        if last[document.document.id] is not document:
            document.settle(Status.SKIPPED)


async def skip_unchanged(
    documents: Sequence[IndexedDocument], points: Points, collection: Collection, *, rewrites: bool = False
) -> list[tuple[IndexedDocument, Point]]:
    """Skip the documents whose text, images, metadata and model are those that the store already has, unless it
    `rewrites` them. Return the others that the store has, each with its point."""
    compared = _open(documents)
    with store_errors():
        ids = [document.document.id for document in compared]
        stored = await points.fetch(ids, with_vectors=False) if compared else []
    for document, point in zip(compared, stored, strict=True):
        first, further = next(iter(document.digests), None), document.digests[1:]
        content = document.content or content_hash(document.document.text, first, document.document.metadata, further)
        document.stamp = stamped(content, collection.fingerprint, collection.passages.stamp)
        if point is not None and point.content_hash == document.stamp and not rewrites:
            document.settle(Status.SKIPPED)
    pairs = zip(compared, stored, strict=True)
    return [(document, point) for document, point in pairs if point is not None and not document.closed]


async def _upsert(documents: Sequence[IndexedDocument], points: Points) -> None:
    """Write all at once; when the store refuses a value, one by one, so that a bad document harms only itself."""
    if not documents:
        return
    try:
        with store_errors():
            await points.upsert([document.point() for document in documents])
    except InvalidInput as error:
        if len(documents) == 1:
            documents[0].fail(error)
            return
        for document in documents:
            await _upsert([document], points)
    else:
        for document in documents:
            document.settle(Status.INDEXED)


def given_embeddings(document: Document, parts: Sequence[Part], collection: Collection) -> list[Embedding]:
    """Return the embeddings that a document came with, where they are of the collection's model and of these parts;
    none else."""
    embedded = document.vector
    if embedded is None or embedded.fingerprint != collection.fingerprint:
        return []
    if embedded.spans != written_spans([(part.start, part.end) for part in parts]):
        return []
    vectors = np.frombuffer(base64.b64decode(embedded.base64), "<f4")
    if len(vectors) % len(parts):
        return []
    embeddings = [Embedding(vector, collection.fingerprint) for vector in vectors.reshape(len(parts), -1)]
    return embeddings if all(unusable(embedding, collection) is None for embedding in embeddings) else []


def unusable(embedding: Embedding, collection: Collection) -> RetrievalError | None:
    """Return what keeps a vector out of the store. The encoder may have become another one since it was asked for its
    model.
    """
    vector = embedding.vector
    if embedding.fingerprint != collection.fingerprint:
        return CollectionUnavailable(mismatch(collection, embedding.fingerprint))
    if vector.shape != (collection.dimensions,):
        return EncodeFailed(f"the embedding has shape {vector.shape}, the collection's is ({collection.dimensions},)")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0:
        return EncodeFailed(f"the embedding has length {norm:g}, which cannot be used")
    return None


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise `CollectionUnavailable` for a collection that the ledger knows and the store does not: it is being dropped,
    somebody has to bring its files back, or another has its name there. Its documents are not at fault.
    """
    try:
        yield
    except (NotFound, Conflict) as error:
        raise CollectionUnavailable(error.detail) from error
