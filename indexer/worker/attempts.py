"""One attempt at a claim: run its batches, record the outcomes, and give back the documents that have to wait. This is
one of the few places that may catch every exception.

claim ─► runner ─┬─ outcomes ─────────────────► finish
 lease renewed   ├─ a URL's host is down ─────► finish the other documents; an attempt is counted for its own
 all the while   ├─ a dependency unavailable ─► release and pause; no document is at fault
                 ├─ an unforeseen error ──────► an attempt is counted; the last one is document by document
                 ├─ encoder or store dies ────► the same as if this process had
                 └─ the process dies ─────────► the next claim of the batch has nothing else in flight; when it dies again, the batch
                                                goes document by document, and each is written down before it is tried
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from indexer.domain.jobs import Batch, JobKind, Status
from indexer.errors import CollectionUnavailable, Died, StoreTimedOut, WriteUnanswered
from indexer.ledger.batches import SOLO_AFTER, Settled
from indexer.ledger.ledger import Ledger
from indexer.loops import heartbeat
from indexer.observability.watch import Watch
from indexer.settings import IndexerSettings
from indexer.worker.claim import Claim
from indexer.worker.pipeline import Result
from indexer.worker.runner import LeaseLost, Runner
from model.errors import DependencyUnavailable, RetrievalError

log = structlog.get_logger(__name__)
_NAMED_DOCUMENTS = 64


class Pause:
    """A pause of all claiming while a dependency that every batch needs does not answer."""

    def __init__(self, settings: IndexerSettings, rng: random.Random) -> None:
        self._backoff, self._rng = settings.backoff, rng
        self._until = 0.0
        self._in_a_row = 0

    @property
    def remaining_s(self) -> float:
        return self._until - time.monotonic()

    def begin(self, error: RetrievalError) -> float:
        """Return the seconds until the next claim. Several batches that fail during one pause count as one failure."""
        if self.remaining_s <= 0:
            self._until = time.monotonic() + self._backoff.delay_after_s(error, self._in_a_row, self._rng)
            self._in_a_row += 1
        return self.remaining_s

    def reset(self) -> None:
        """Reset the back-off, because a batch has succeeded."""
        self._in_a_row = 0


class Attempts:
    """The runs of claims, from lease to outcome. Whatever raises, each batch is either settled or given back."""

    def __init__(
        self,
        ledger: Ledger,
        runner: Runner,
        settings: IndexerSettings,
        pause: Pause,
        rng: random.Random,
        watch: Watch,
        stopping: Callable[[], bool],
    ) -> None:
        self._ledger, self._runner, self._settings = ledger, runner, settings
        self._backoff = settings.backoff
        self._pause, self._rng, self._watch, self._stopping = pause, rng, watch, stopping

    async def run(self, claim: Claim) -> None:
        first = claim.batches[0]
        async with heartbeat(lambda: self._renew(claim), self._settings.lease_s / 3):
            try:
                if first.crashes >= min(SOLO_AFTER, self._settings.max_attempts):
                    await self._one_by_one_recorded(claim)
                else:
                    await self._finish(claim, await self._attempt(claim))
                self._pause.reset()
            except asyncio.CancelledError:
                await asyncio.shield(self.release(claim))
                raise
            except LeaseLost:
                log.warning("lease lost", batch=first.id, job=first.job_id)
                with contextlib.suppress(DependencyUnavailable):
                    await self.release(claim)  # the batches of the claim whose leases still hold
            except RetrievalError as error:
                await self._give_back(claim, error)
            except Exception as error:
                log.exception("batch failed", batch=first.id, job=first.job_id, attempt=claim.attempts + 1)
                await self._give_back(claim, error)

    async def release(self, claim: Claim) -> None:
        """Give the batches back untouched. Of a write that was under way nobody waits for the answer."""
        await self._ledger.batches.release(claim.batches, retry_after_s=0.0, waiting_on=None, unanswered=True)

    async def defer(self, claim: Claim, retry_after_s: float, waiting_on: str) -> None:
        """Give the batches back, not to be claimed for a while."""
        await self._record(
            claim,
            lambda: self._ledger.batches.release(claim.batches, retry_after_s=retry_after_s, waiting_on=waiting_on),
        )

    def _renew(self, claim: Claim) -> Awaitable[object]:
        return self._ledger.batches.renew(claim.batches, self._settings.lease_s)

    async def _attempt(self, claim: Claim) -> Result:
        """Run the batches together. The last attempt goes document by document, so that only the bad ones fail."""
        batch = claim.whole
        last = batch.attempts + 1 >= self._settings.max_attempts
        if not last or len(batch.items) == 1:
            return await self._runner.run(claim, batch, last_attempt=last)
        result = Result()
        for item in batch.items:
            try:
                result.merge(await self._run_document(claim, replace(batch, items=(item,)), last_attempt=True))
            except Died:
                raise
            except RetrievalError as error:
                result.waiting = error
                break
        return result

    async def _one_by_one_recorded(self, claim: Claim) -> None:
        """Run a batch during which workers, encoders or stores died, document by document. Each document is noted in
        the ledger before it is tried, so that a document that kills its worker is identified. After `max_attempts`
        deaths it has failed.

        No document is blamed for an outage: before each attempt, encoder and store have to answer for a harmless one.
        """
        (batch,) = claim.batches
        waiting: RetrievalError | None = None
        for item in batch.items:
            result = await self._run_suspect(claim, replace(batch, items=(item,)))
            waiting = waiting or result.waiting
            if result.outcomes:
                await self._settle([(batch, result.outcomes)], keep=True)
                batch = replace(batch, items=tuple(untried for untried in batch.items if untried != item))
                claim.batches = (batch,)
        if batch.items:
            pause = self._backoff.delay_s(batch.attempts, self._rng)
            await self._settle([(batch, [])], retry_after_s=pause, waiting_on=waiting.detail[:300] if waiting else None)

    async def _run_suspect(self, claim: Claim, batch: Batch) -> Result:
        """Run a batch of one document that may kill its worker."""
        ((position, _),) = batch.items
        last = batch.attempts + 1 >= self._settings.max_attempts
        if batch.suspect == position and batch.crashes >= self._settings.max_attempts:
            detail = f"the worker died {batch.crashes} times while indexing it"
            return Result.alike(batch, Status.FAILED, "worker_died", detail)
        if not await self._ledger.batches.suspect(batch, position):
            raise LeaseLost
        try:
            return await self._run_document(claim, replace(batch, suspect=position), last_attempt=last)
        except Died as error:
            deaths = batch.crashes + 1
            # The store has just answered for a harmless document, and all searches wait while this one is tried.
            if deaths < self._settings.max_attempts and not isinstance(error, StoreTimedOut):
                raise
            detail = f"{error.detail}, {deaths} times while indexing it"
            return Result.alike(batch, Status.FAILED, error.failure, detail)

    async def _run_document(self, claim: Claim, batch: Batch, *, last_attempt: bool) -> Result:
        """Run a batch of one document. An error is the document's own: a failure on the last attempt, otherwise no
        outcome yet.

        Raises `LeaseLost`, and the retryable `RetrievalError` of an unavailable dependency.
        """
        try:
            return await self._runner.run(claim, batch, last_attempt=last_attempt)
        except LeaseLost:
            raise
        except RetrievalError as error:
            if error.retryable:
                raise
            return Result.alike(batch, Status.FAILED, error.code, error.detail)
        except Exception as error:
            log.exception("document failed", document=batch.items[0][1].id, job=batch.job_id)
            if not last_attempt:
                return Result()
            return Result.alike(batch, Status.FAILED, "internal", f"{type(error).__name__} while indexing")

    async def _finish(self, claim: Claim, result: Result) -> None:
        pause = self._backoff.delay_after_s(result.waiting, claim.attempts, self._rng) if result.waiting else 0.0
        waiting_on = result.waiting.detail[:300] if result.waiting else None
        unanswered = isinstance(result.waiting, WriteUnanswered)
        await self._settle(
            claim.settled(result.outcomes), retry_after_s=pause, waiting_on=waiting_on, unanswered=unanswered
        )

    async def _settle(self, settled: Sequence[Settled], **options: Any) -> None:
        if not await self._ledger.batches.finish(settled, **options):
            written = [
                outcome.document_id
                for _, outcomes in settled
                for outcome in outcomes
                if outcome.status is Status.INDEXED
            ]
            log.warning("documents written under a lost lease", documents=written[:_NAMED_DOCUMENTS])
            raise LeaseLost
        self._record_metrics(settled, waits=options.get("waiting_on") is not None, keep=options.get("keep", False))

    def _record_metrics(self, settled: Sequence[Settled], *, waits: bool = False, keep: bool = False) -> None:
        for batch, outcomes in settled:
            for status, count in Counter(outcome.status for outcome in outcomes).items():
                deleted = batch.kind is JobKind.DELETE and status is Status.INDEXED
                self._watch.settled("deleted" if deleted else status, count)
            if truncated := sum(outcome.truncated > 0 for outcome in outcomes):
                self._watch.truncated(truncated)
            if len(outcomes) < len(batch.items) and not keep:
                self._watch.tried_again("waiting" if waits else "attempt")

    async def _give_back(self, claim: Claim, error: Exception) -> None:
        """Release the batches until their dependency answers, or count a failed attempt. After the last attempt their
        documents have failed."""
        if isinstance(error, RetrievalError) and error.retryable:
            one_collection = isinstance(error, CollectionUnavailable)
            pause = self._backoff.delay_s(claim.releases, self._rng) if one_collection else self._pause.begin(error)
            first, detail = claim.batches[0], error.detail[:300]
            log.warning("batch waits", batch=first.id, job=first.job_id, detail=detail, retry_after_s=round(pause, 2))
            options = {
                "whole_collection": one_collection,
                "crashed": isinstance(error, Died),
                "unanswered": isinstance(error, WriteUnanswered),
            }
            released = claim.batches
            settled: list[Settled] = [(batch, []) for batch in released]
            waits = await self._record(
                claim,
                lambda: self._ledger.batches.release(released, retry_after_s=pause, waiting_on=detail, **options),
            )
            if waits:
                self._record_metrics(settled, waits=True)
            return
        settled = [(batch, self._after_failure(batch, error)) for batch in claim.batches]
        pause = self._backoff.delay_s(claim.attempts, self._rng)
        if await self._record(claim, lambda: self._ledger.batches.finish(settled, retry_after_s=pause)):
            self._record_metrics(settled)

    def _after_failure(self, batch: Batch, error: Exception) -> Sequence[Any]:
        """Return the outcomes of a batch that failed as a whole: none before its last attempt."""
        if batch.attempts + 1 < self._settings.max_attempts:
            return []
        if isinstance(error, RetrievalError):
            return Result.alike(batch, Status.FAILED, error.code, error.detail).outcomes
        return Result.alike(batch, Status.FAILED, "internal", f"{type(error).__name__} while indexing").outcomes

    async def _record(self, claim: Claim, write: Callable[[], Awaitable[object]]) -> bool:
        """Retry a write to the ledger for as long as a lease lasts. If it were given up earlier, the next worker would
        wait for the lease to expire and take this worker for dead.
        """
        deadline = time.monotonic() + self._settings.lease_s
        for tries in itertools.count():
            try:
                await write()
            except DependencyUnavailable as error:
                log.warning("cannot record an outcome", batch=claim.batches[0].id, detail=error.detail)
                if self._stopping() or time.monotonic() > deadline:
                    break
                await asyncio.sleep(self._backoff.delay_s(tries, self._rng))
            else:
                return True
        return False
