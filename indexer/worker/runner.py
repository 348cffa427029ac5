"""Run one claimed batch by its kind: documents and deletions through the pipeline, repairs and reindexes by what they
ask for.

It knows the lease of what it writes, and nothing of attempts.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keeper
from indexer.domain.collections import Collection, Reindex, ReindexState
from indexer.domain.documents import Document
from indexer.domain.incoming import DocumentBounds
from indexer.domain.jobs import REWRITING, Batch, JobKind, Outcome, Status
from indexer.encoding.registry import Encoders
from indexer.errors import CollectionUnavailable
from indexer.ledger.ledger import Ledger
from indexer.store.base import Points, Store
from indexer.worker.claim import Claim
from indexer.worker.copy_batch import CopyBatch
from indexer.worker.pipeline import CollectionEncoder, HoldLease, ImageFetcher, Pipeline, Result
from indexer.worker.reindex_batch import ReindexBatch
from indexer.worker.update_batch import UpdateBatch
from model.errors import NotFound


class LeaseLost(Exception):
    """The batch belongs to another worker by now, or is gone with its collection."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Running of batches, each with the encoder of its collection. Without a `keeper` the original images are kept."""

    ledger: Ledger
    store: Store
    encoders: Encoders
    blobs: Blobs
    fetcher: ImageFetcher
    keeper: Keeper | None
    lease_s: float
    bounds: DocumentBounds

    async def run(self, claim: Claim, batch: Batch, *, last_attempt: bool) -> Result:
        collection = await self.ledger.collections.find(batch.collection)
        hold = partial(self._hold, claim)
        if batch.kind is JobKind.REINDEX:
            return await self._reindex(batch, collection, hold)
        if collection.paused:
            raise CollectionUnavailable(f"collection {collection.name!r} is being switched to another generation")
        points = self.store.points(collection.points_name)
        pipeline = replace(self._pipeline(collection, self.keeper), rewrites=batch.kind is JobKind.REPAIR)
        if batch.suspect is not None:
            await pipeline.probe(points)
        if batch.kind in (JobKind.DOCUMENTS, JobKind.IMPORT):
            await self._note_precision(collection, collection)

        async def run(batch: Batch) -> Result:
            if batch.kind is JobKind.UPDATE:
                return await UpdateBatch(pipeline, points, collection, self.bounds).run(batch, hold=hold)
            if batch.kind is JobKind.COPY:
                return await self._copy(batch, collection, points, hold)
            return await pipeline.run(batch, collection, points, hold=hold, last_attempt=last_attempt)

        return await (self._repair(batch, run) if batch.kind is JobKind.REPAIR else run(batch))

    async def _hold(self, claim: Claim) -> None:
        """Renew the lease before a write. Raises `LeaseLost`."""
        until = time.monotonic() + self.lease_s
        if not await self.ledger.batches.renew(claim.batches, self.lease_s, writing=True):
            raise LeaseLost
        # The process stood still since: another may have written what was accepted later.
        if time.monotonic() > until:
            raise LeaseLost

    async def _repair(self, batch: Batch, run: Callable[[Batch], Awaitable[Result]]) -> Result:
        """Write the last accepted write of each document once more, and then the updates that came after it."""
        result = Result()
        writes = await self.ledger.repairs.latest_writes(batch)
        for kind in sorted(writes, key=lambda kind: kind is JobKind.UPDATE):
            items = writes[kind]
            if kind is JobKind.REPAIR:
                result.outcomes += [Outcome(position, document.id, Status.SKIPPED) for position, document in items]
            else:
                result.merge(await run(replace(batch, kind=kind, items=tuple(items))))
        # A document that was written and then updated has several outcomes: the worst of them counts.
        worst: dict[int, Outcome] = {}
        for outcome in result.outcomes:
            if outcome.position not in worst or outcome.status is Status.FAILED:
                worst[outcome.position] = outcome
        return Result(list(worst.values()), result.waiting)

    async def _copy(self, batch: Batch, collection: Collection, points: Points, hold: HoldLease) -> Result:
        """Copy documents of other collections, one collection after the other: a claim may have several copies."""
        # The images that were kept stay as they are.
        pipeline = self._pipeline(collection, None)
        by_origin: dict[str, list[tuple[int, Document]]] = {}
        for item in batch.items:
            by_origin.setdefault(item[1].metadata["from"], []).append(item)
        result = Result()
        for name, items in by_origin.items():
            try:
                origin = await self.ledger.collections.find(name)
            except NotFound as error:
                detail = f"collection {name!r} was deleted before the document was copied from it"
                result.merge(Result.alike(replace(batch, items=tuple(items)), Status.FAILED, error.code, detail))
                continue
            precisions = origin.precisions.get(collection.fingerprint, ())
            await self._note_precisions(collection, collection.fingerprint, precisions)
            copy = CopyBatch(pipeline, origin, self.store.points(origin.points_name), collection, points)
            result.merge(await copy.run(items, hold=hold))
        return result

    async def _reindex(self, batch: Batch, collection: Collection, hold: HoldLease) -> Result:
        """Make the other generation equal to the serving one for these documents."""
        reindex = await self.ledger.reindexes.find(collection.name)
        if reindex is None or reindex.state is ReindexState.DROPPING or reindex.job_id != batch.job_id:
            return Result.alike(batch, Status.SKIPPED)
        # The images that were kept stay as they are.
        rewrites = any(REWRITING in document.metadata for _, document in batch.items)
        pipeline = replace(self._pipeline(reindex, None), rewrites=rewrites)
        serving, target = self.store.points(collection.points_name), self.store.points(reindex.points_name)
        if batch.suspect is not None:
            await pipeline.probe(target)
        await self._note_precision(collection, reindex)
        lenient = not reindex.state.before_switch
        copy = ReindexBatch(pipeline, serving, target, collection.other(reindex), lenient=lenient)
        return await copy.run(batch, hold=hold)

    async def _note_precision(self, collection: Collection, target: Collection | Reindex) -> None:
        """Keep in the ledger that documents were embedded in a precision that is new to the collection."""
        info = await CollectionEncoder(self.encoders, target).info()
        await self._note_precisions(collection, info.fingerprint, (info.precision,))

    async def _note_precisions(self, collection: Collection, fingerprint: str, precisions: Iterable[str]) -> None:
        if new := set(precisions).difference(collection.precisions.get(fingerprint, ())):
            await self.ledger.collections.change(collection.name, lambda present: present.filled_by(fingerprint, *new))

    def _pipeline(self, target: Collection | Reindex, keeper: Keeper | None) -> Pipeline:
        """Return the pipeline with the encoder of that model."""
        return Pipeline(CollectionEncoder(self.encoders, target), self.blobs, self.fetcher, keeper)
