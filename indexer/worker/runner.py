"""One claimed batch by its kind: documents and deletions through the pipeline, a repair to what stands, a reindex to the fill.

Knows the lease of what it writes, and nothing of attempts.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from indexer.domain.collections import Collection, ReindexState
from indexer.domain.jobs import Batch, JobKind, Outcome, Status
from indexer.encoding.registry import Encoders
from indexer.errors import CollectionUnavailable, one_collection_waits
from indexer.ledger.ledger import Ledger
from indexer.store.base import Store
from indexer.worker.claim import Claim
from indexer.worker.pipeline import Hold, OneOfTwo, Pipeline, Result
from indexer.worker.reindex_batch import Fill


class LeaseLost(Exception):
    """The batch is another worker's by now, or gone with its collection."""


@dataclass(frozen=True, slots=True)
class Runner:
    """`pipeline` has the first of the encoders."""

    ledger: Ledger
    store: Store
    encoders: Encoders
    pipeline: Pipeline
    lease_s: float

    async def run(self, claim: Claim, batch: Batch, *, last_attempt: bool) -> Result:
        async def hold() -> None:
            until = time.monotonic() + self.lease_s
            if not await self.ledger.batches.renew(claim.batches, self.lease_s, writing=True):
                raise LeaseLost
            # The process stood still since: another may have written what was accepted later.
            if time.monotonic() > until:
                raise LeaseLost

        collection = await self.ledger.collections.find(batch.collection)
        if batch.kind is JobKind.REINDEX:
            return await self._fill(batch, collection, hold)
        if collection.paused:
            raise CollectionUnavailable(f"collection {collection.name!r} is being switched to another generation")
        points = self.store.points(collection.points_name)
        pipeline = await self._pipeline_for(collection.fingerprint)
        if batch.suspect is not None:
            await pipeline.probe(points)
        run = partial(pipeline.run, collection=collection, points=points, hold=hold, last_attempt=last_attempt)
        return await (self._repair(batch, run) if batch.kind is JobKind.REPAIR else run(batch))

    async def _repair(self, batch: Batch, run: Callable[[Batch], Awaitable[Result]]) -> Result:
        whole = Result()
        for kind, items in (await self.ledger.repairs.latest_writes(batch)).items():
            if kind is JobKind.REPAIR:
                whole.outcomes += [Outcome(position, one.id, Status.SKIPPED) for position, one in items]
                continue
            result = await run(replace(batch, kind=kind, items=tuple(items)))
            whole.outcomes += result.outcomes
            whole.waiting = whole.waiting or result.waiting
        return whole

    async def _fill(self, batch: Batch, collection: Collection, hold: Hold) -> Result:
        reindex = await self.ledger.reindexes.find(collection.name)
        if reindex is None or reindex.state is ReindexState.DROPS or reindex.job_id != batch.job_id:
            return Result([Outcome(position, one.id, Status.SKIPPED) for position, one in batch.items])
        pipeline = replace(await self._pipeline_for(reindex.fingerprint), keeper=None)  # what was kept stays as it is
        serving, others = (self.store.points(each.points_name) for each in (collection, reindex))
        if batch.suspect is not None:
            await pipeline.probe(others)
        fill = Fill(pipeline, serving, others, collection.other(reindex), lenient=not reindex.state.before_switch)
        return await fill.run(batch, hold=hold)

    async def _pipeline_for(self, fingerprint: str) -> Pipeline:
        """With the encoder of that model; where there is none with the first, which the pipeline refuses by its fingerprint."""
        if self.encoders.next is None:
            return self.pipeline
        with one_collection_waits():
            found = await self.encoders.by_fingerprint(fingerprint)
        return replace(self.pipeline, encoder=OneOfTwo(found[0] if found else self.encoders.first))
