"""What happens to one batch of a copy: documents of another collection as they stand there, with their vectors.

ids ─► points of the other collection ─► gone: skipped ─► unchanged: skipped ─┬─ same model: vectors and all ─► store
                                                                             └─ reindexed meanwhile: encoder ─► store
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.domain.collections import Collection
from indexer.domain.documents import Document
from indexer.domain.jobs import Outcome, Status
from indexer.store.base import Points
from indexer.worker.pipeline import HoldLease, Pipeline, Result, skip_unchanged, store_errors
from indexer.worker.reindex_batch import document_of


@dataclass(frozen=True, slots=True)
class CopyBatch:
    """Copies documents of the collection `origin` into the points of `collection`. Repeating it is harmless."""

    pipeline: Pipeline
    origin: Collection
    origin_points: Points
    collection: Collection
    points: Points

    async def run(self, items: Sequence[tuple[int, Document]], *, hold: HoldLease) -> Result:
        """Raise as `Pipeline.run` does."""
        with store_errors():
            stored = await self.origin_points.fetch([document.id for _, document in items], with_latents=True)
        present = [(position, point) for (position, _), point in zip(items, stored, strict=True) if point is not None]
        documents = [document_of(position, point) for position, point in present]
        await skip_unchanged(documents, self.points, self.collection)
        if self.origin.fingerprint == self.collection.fingerprint:
            changed = [
                (document, point)
                for document, (_, point) in zip(documents, present, strict=True)
                if not document.closed
            ]
            await hold()
            with store_errors():
                await self.points.upsert([point for _, point in changed])
            for document, _ in changed:
                document.settle(Status.INDEXED)
        else:
            await self.pipeline.write(documents, self.collection, self.points, hold=hold)
        result = Result.of(documents)
        gone = [
            (position, document.id) for (position, document), point in zip(items, stored, strict=True) if point is None
        ]
        result.outcomes += [Outcome(position, key, Status.SKIPPED) for position, key in gone]
        return result
