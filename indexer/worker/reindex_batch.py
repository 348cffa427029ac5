"""What happens to one batch of a reindex: the other generation is made equal to the serving one for its document ids.

ids ─► serving points ─► gone: deleted ─► unchanged: skipped ─► embedded by the other model ─► target points ─► serving points again
              ▲                                                                                                        │
              └────────────────────────── documents that have changed meanwhile, once more ◄───────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from indexer.domain.collections import Collection
from indexer.domain.documents import Document, ImageRef, unstamped
from indexer.domain.jobs import Batch, Outcome, Status
from indexer.domain.points import MetadataChange, Point
from indexer.errors import CollectionUnavailable
from indexer.store.base import Points
from indexer.worker.pipeline import HoldLease, IndexedDocument, Pipeline, Result, skip_unchanged, store_errors

log = structlog.get_logger(__name__)

# Rounds after which documents that are written as fast as they are copied wait, so that nobody else waits with them.
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class ReindexBatch:
    """Copies documents from the `serving` points to the `target` points, embedded by the model of the `pipeline`.

    Repeating a batch, or running two with the same ids at once, is harmless: each ends with the target as it found the
    serving generation after its own write. `collection` has the settings of the target. `lenient`: documents that
    cannot be embedded are left out and logged, because the job that would list them has ended.
    """

    pipeline: Pipeline
    serving: Points
    target: Points
    collection: Collection
    lenient: bool = False

    async def run(self, batch: Batch, *, hold: HoldLease) -> Result:
        """Raise as `Pipeline.run` does."""
        ids = list(dict.fromkeys(document.id for _, document in batch.items))
        copied = Result()
        for _ in range(_ROUNDS):
            result, hashes = await self._copy(ids, hold)
            copied.merge(result)
            # Without this second look a write that came between our reading and our writing would be undone by us.
            ids = await self._changed_since(hashes)
            if not ids:
                break
        else:
            raise CollectionUnavailable(
                f"{len(ids)} documents of {self.collection.name!r} keep changing; retrying later"
            )
        last = {outcome.document_id: outcome for outcome in copied.outcomes}
        outcomes = [
            self._outcome(last[document.id], position) for position, document in batch.items if document.id in last
        ]
        return Result(outcomes, copied.waiting)

    async def _copy(self, ids: Sequence[str], hold: HoldLease) -> tuple[Result, dict[str, str | None]]:
        """Copy the documents. Return the result, and by id the content hash that the serving generation had before,
        None for none.
        """
        with store_errors():
            points = dict(zip(ids, await self.serving.fetch(ids, with_vectors=False), strict=True))
        documents = [document_of(place, point) for place, point in enumerate(points.values()) if point is not None]
        rewrites = self.pipeline.rewrites
        changed = await skip_unchanged(documents, self.target, self.collection, rewrites=rewrites)
        if not rewrites:
            await self._copy_metadata([document for document, point in changed if _is_embedded(document, point)], hold)
        await self.pipeline.write(documents, self.collection, self.target, hold=hold)
        result = Result.of(documents)
        gone = [document_id for document_id, point in points.items() if point is None]
        failed = [outcome.document_id for outcome in result.outcomes if outcome.status is Status.FAILED]
        # An older version of a document that is gone, or could not be copied, must not stay.
        if gone or failed:
            await hold()
            with store_errors():
                await self.target.delete([*gone, *failed])
        result.outcomes += [Outcome(0, document_id, Status.SKIPPED) for document_id in gone]
        return result, {key: None if point is None else point.content_hash for key, point in points.items()}

    async def _copy_metadata(self, documents: Sequence[IndexedDocument], hold: HoldLease) -> None:
        """Give documents that were embedded as they are the metadata that they have by now."""
        if not documents:
            return
        await hold()
        changes = [
            MetadataChange(document.document.id, document.document.metadata, document.stamp) for document in documents
        ]
        with store_errors():
            await self.target.set_metadata(changes)
        for document in documents:
            document.settle(Status.INDEXED)

    async def _changed_since(self, hashes: dict[str, str | None]) -> list[str]:
        with store_errors():
            points = await self.serving.fetch(list(hashes), with_vectors=False)
        present = [None if point is None else point.content_hash for point in points]
        return [key for key, content_hash in zip(hashes, present, strict=True) if hashes[key] != content_hash]

    def _outcome(self, outcome: Outcome, position: int) -> Outcome:
        if outcome.status is Status.FAILED and self.lenient:
            log.warning(
                "document missing from the previous generation",
                collection=self.collection.name,
                document=outcome.document_id,
                code=outcome.code,
                detail=outcome.detail,
            )
            return Outcome(position, outcome.document_id, Status.SKIPPED)
        return replace(outcome, position=position)


def _is_embedded(document: IndexedDocument, point: Point) -> bool:
    """Return whether a point of the other generation was embedded from the text and the kept images of a document."""
    return point.text == document.document.text and point.digests == document.digests


def document_of(place: int, point: Point) -> IndexedDocument:
    """Return the document of a point, with the hash of its original images, of which the blobs may have thumbnails
    alone.

    Where no image was kept the hash is that of the text alone, as the embedding will be: posted again with its images,
    the document has changed.
    """
    images = tuple(map(ImageRef, point.digests))
    first = next(iter(images), None)
    document = Document(point.document_id, point.text, first, point.metadata, more_images=images[1:])
    content = unstamped(point.content_hash) if images else None
    return IndexedDocument(place, document, digests=point.digests, content=content)
