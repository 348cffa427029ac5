"""The worker: claims batches, runs them through the pipeline, records what came of them. One of the places that may catch anything.

claim ─► pipeline ─┬─ outcomes ───────────────► finish
 lease renewed     ├─ a URL's host is down ───► finish the others; an attempt is counted for its documents
 all the while     ├─ something is away ──────► release and pause; nobody is at fault
                   └─ nobody foresaw it ──────► an attempt is counted; the last one is document by document
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from indexer.blobs import Blobs
from indexer.encoder import Encoder
from indexer.ledger import Ledger
from indexer.pipeline import CollectionUnavailable, ImageFetcher, Pipeline, Result
from indexer.records import Batch, Job, Outcome, Status
from indexer.retry import delay_after_s, delay_s
from indexer.settings import IndexerSettings
from indexer.store import Store
from model.errors import DependencyUnavailable, RetrievalError

log = structlog.get_logger(__name__)
_IDLE_S = 5.0  # how often an idle worker looks, should it have missed a poke
_STOP_S = 5.0  # the rest of `grace_s` is for requests before and the batcher after


class LeaseLost(Exception):
    """The batch is another worker's by now, or gone with its collection."""


class Worker:
    """Runs in the event loop that starts it. Bounded: `concurrency` batches in flight.

    A batch that fails because something it needs does not answer goes back and waits, for ever if need be, visibly. One that
    fails otherwise is tried `max_attempts` times, at the end document by document, so that only the poison becomes a failure.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        encoder: Encoder,
        blobs: Blobs,
        fetcher: ImageFetcher,
        settings: IndexerSettings,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._ledger, self._store, self._settings = ledger, store, settings
        self._pipeline = Pipeline(encoder, blobs, fetcher)
        self._rng = rng or random.Random()
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self._waits = 0  # in a row, of any batch, on what every batch needs
        self._paused_until = 0.0

    async def start(self) -> None:
        self._stopping = False
        self._loops = [
            asyncio.create_task(self._loop(), name=f"worker-{number}") for number in range(self._settings.concurrency)
        ]
        for task in self._loops:
            task.add_done_callback(_report_death)

    async def stop(self, timeout_s: float = _STOP_S) -> None:
        """Batches in flight are finished, or after `timeout_s` given back."""
        self._stopping = True
        self.poke()
        if self._loops:
            _, late = await asyncio.wait(self._loops, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []

    @property
    def alive(self) -> bool:
        """False once a loop has ended by itself: nothing it claimed would be worked on any more."""
        return bool(self._loops) and (self._stopping or not any(task.done() for task in self._loops))

    def poke(self) -> None:
        """There may be work."""
        self._wake.set()

    async def wait(self, job_id: str, timeout_s: float) -> Job:
        """The job when it is finished, or as it is after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            async with self._progress:
                job = await self._ledger.call(self._ledger.job, job_id)
                left = deadline - time.monotonic()
                if job.state.finished or left <= 0:
                    return job
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._progress.wait(), min(left, _IDLE_S))

    async def _loop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            if (paused_s := self._paused_until - time.time()) > 0:
                await self._sleep(paused_s)
                continue
            try:
                claimed = await self._ledger.call(self._ledger.claim, 1, self._settings.lease_s)
            except DependencyUnavailable as error:
                log.warning("cannot claim work", detail=error.detail)
                self._pause(error)
                continue
            for batch in claimed:
                await self._work(batch)
            if not claimed:
                await self._sleep(await self._until_due())

    async def _work(self, batch: Batch) -> None:
        """One batch from claim to outcome; whatever raises, the batch is either settled or given back."""
        beat = asyncio.create_task(self._heartbeat(batch))
        try:
            result = await self._attempt(batch)
            await self._finish(batch, result)
            self._waits = 0
        except asyncio.CancelledError:
            await asyncio.shield(self._ledger.call(self._ledger.release, batch, retry_after_s=0.0, waiting_on=None))
            raise
        except LeaseLost:
            log.warning("lease lost", batch=batch.id, job=batch.job_id)
        except RetrievalError as error:
            await self._give_back(batch, error)
        except Exception as error:
            log.exception("batch failed", batch=batch.id, job=batch.job_id, attempt=batch.attempts + 1)
            await self._give_back(batch, error)
        finally:
            beat.cancel()
        self.poke()  # what waited for this batch's documents may be due
        async with self._progress:
            self._progress.notify_all()

    async def _attempt(self, batch: Batch) -> Result:
        last = batch.attempts + 1 >= self._settings.max_attempts
        if not last or len(batch.items) == 1:
            return await self._run(batch, last_attempt=last)
        whole = Result()
        for item in batch.items:
            try:
                result = await self._run(replace(batch, items=(item,)), last_attempt=True)
            except LeaseLost:
                raise
            except RetrievalError as error:
                if error.retryable:
                    whole.waiting = error
                    break
                result = _failed(replace(batch, items=(item,)), error.code, error.detail)
            except Exception as error:
                log.exception("document failed", document=item[1].id, job=batch.job_id)
                result = _failed(replace(batch, items=(item,)), "internal", f"{type(error).__name__} while indexing")
            whole.outcomes += result.outcomes
            whole.waiting = whole.waiting or result.waiting
        return whole

    async def _run(self, batch: Batch, *, last_attempt: bool) -> Result:
        async def hold() -> None:
            if not await self._ledger.call(self._ledger.renew, batch, self._settings.lease_s):
                raise LeaseLost

        collection = await self._ledger.call(self._ledger.collection, batch.collection)
        points = self._store.points(collection.name)
        return await self._pipeline.run(batch, collection, points, hold=hold, last_attempt=last_attempt)

    async def _finish(self, batch: Batch, result: Result) -> None:
        pause = delay_after_s(result.waiting, batch.attempts, self._settings, self._rng) if result.waiting else 0.0
        waiting_on = result.waiting.detail[:300] if result.waiting else None
        finish = self._ledger.finish
        if not await self._ledger.call(finish, batch, result.outcomes, retry_after_s=pause, waiting_on=waiting_on):
            raise LeaseLost

    async def _give_back(self, batch: Batch, error: Exception) -> None:
        """The batch waits for what it needs; or counts an attempt, and after the last one its documents have failed."""
        if isinstance(error, RetrievalError) and error.retryable:
            alone = isinstance(error, CollectionUnavailable)
            pause = delay_s(batch.releases, self._settings, self._rng) if alone else self._pause(error)
            detail = error.detail[:300]
            log.warning("batch waits", batch=batch.id, job=batch.job_id, detail=detail, retry_after_s=round(pause, 2))
            call = self._releasing(batch, pause, detail, whole_collection=alone)
        elif batch.attempts + 1 >= self._settings.max_attempts:
            detail = error.detail if isinstance(error, RetrievalError) else f"{type(error).__name__} while indexing"
            code = error.code if isinstance(error, RetrievalError) else "internal"
            call = self._finishing(batch, _failed(batch, code, detail).outcomes, 0.0)
        else:
            call = self._finishing(batch, [], delay_s(batch.attempts, self._settings, self._rng))
        try:
            await self._ledger.call(call)
        except DependencyUnavailable as unreachable:  # the lease will run out, and the batch is claimed again
            log.warning("cannot record an outcome", batch=batch.id, detail=unreachable.detail)

    def _pause(self, error: RetrievalError) -> float:
        """Nothing is claimed for a while, else every batch in turn would meet the same trouble. Seconds until the next claim;
        batches that meet it at the same time count as one."""
        now = time.time()
        if now >= self._paused_until:
            self._paused_until = now + delay_after_s(error, self._waits, self._settings, self._rng)
            self._waits += 1
        return self._paused_until - now

    def _finishing(self, batch: Batch, outcomes: list[Outcome], pause: float) -> Callable[[], object]:
        return lambda: self._ledger.finish(batch, outcomes, retry_after_s=pause)

    def _releasing(
        self, batch: Batch, pause: float, waiting_on: str, *, whole_collection: bool
    ) -> Callable[[], object]:
        release = self._ledger.release
        return lambda: release(batch, retry_after_s=pause, waiting_on=waiting_on, whole_collection=whole_collection)

    async def _heartbeat(self, batch: Batch) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            with contextlib.suppress(DependencyUnavailable):
                await self._ledger.call(self._ledger.renew, batch, self._settings.lease_s)

    async def _until_due(self) -> float:
        try:
            due = await self._ledger.call(self._ledger.due_at)
        except DependencyUnavailable:
            return _IDLE_S
        return _IDLE_S if due is None else min(_IDLE_S, max(0.05, due - time.time()))

    async def _sleep(self, seconds: float) -> None:
        """Until poked, or `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)


def _failed(batch: Batch, code: str, detail: str) -> Result:
    return Result([Outcome(position, document.id, Status.FAILED, code, detail) for position, document in batch.items])


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("worker loop died", task=task.get_name(), exc_info=error)
