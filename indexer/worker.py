"""The worker: claims batches, runs them through the pipeline, records what came of them. One of the places that may catch anything."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import structlog

from indexer.blobs import Blobs
from indexer.encoder import Encoder
from indexer.ledger import Batch, Ledger, Outcome, Status
from indexer.pipeline import Pipeline, Result
from indexer.records import Job
from indexer.retry import delay_after_s, delay_s
from indexer.settings import IndexerSettings
from indexer.sources import Fetcher
from indexer.store import Store
from model.errors import DependencyUnavailable, NotFound, RetrievalError

T = TypeVar("T")
log = structlog.get_logger()
_IDLE_S = 5.0  # how often an idle worker looks, should it have missed a poke
_STOP_S = 8.0


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
        fetcher: Fetcher,
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

    async def start(self) -> None:
        self._stopping = False
        self._loops = [
            asyncio.create_task(self._loop(), name=f"worker-{number}") for number in range(self._settings.concurrency)
        ]

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
                job = await _blocking(lambda: self._ledger.job(job_id))
                left = deadline - time.monotonic()
                if job.state.finished or left <= 0:
                    return job
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._progress.wait(), left)

    async def _loop(self) -> None:
        failed_claims = 0
        while not self._stopping:
            self._wake.clear()
            try:
                claimed = await _blocking(lambda: self._ledger.claim(1, self._settings.lease_s))
                failed_claims = 0
            except DependencyUnavailable as error:
                log.warning("cannot claim work", detail=error.detail)
                await self._sleep(delay_s(failed_claims, self._settings, self._rng))
                failed_claims += 1
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
        except asyncio.CancelledError:
            await asyncio.shield(_blocking(lambda: self._ledger.release(batch, retry_after_s=0.0, waiting_on=None)))
            raise
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
        collection = await _blocking(lambda: self._ledger.collection(batch.collection))
        return await self._pipeline.run(
            batch, collection, self._store.points(collection.name), last_attempt=last_attempt
        )

    async def _finish(self, batch: Batch, result: Result) -> None:
        pause = delay_after_s(result.waiting, batch.attempts, self._settings, self._rng) if result.waiting else 0.0
        waiting_on = result.waiting.detail[:300] if result.waiting else None
        await _blocking(lambda: self._ledger.finish(batch, result.outcomes, retry_after_s=pause, waiting_on=waiting_on))

    async def _give_back(self, batch: Batch, error: Exception) -> None:
        """The batch waits for what it needs; or counts an attempt, and after the last one its documents have failed."""
        if isinstance(error, NotFound):  # the collection was dropped meanwhile, and the batch with it
            call = self._finishing(batch, _failed(batch, error.code, error.detail).outcomes, 0.0)
        elif isinstance(error, RetrievalError) and error.retryable:
            pause = delay_after_s(error, batch.releases, self._settings, self._rng)
            detail = error.detail[:300]
            log.warning("batch waits", batch=batch.id, job=batch.job_id, detail=detail, retry_after_s=round(pause, 2))
            call = self._releasing(batch, pause, detail)
        elif batch.attempts + 1 >= self._settings.max_attempts:
            detail = error.detail if isinstance(error, RetrievalError) else f"{type(error).__name__} while indexing"
            code = error.code if isinstance(error, RetrievalError) else "internal"
            call = self._finishing(batch, _failed(batch, code, detail).outcomes, 0.0)
        else:
            call = self._finishing(batch, [], delay_s(batch.attempts, self._settings, self._rng))
        try:
            await _blocking(call)
        except DependencyUnavailable as unreachable:  # the lease will run out, and the batch is claimed again
            log.warning("cannot record an outcome", batch=batch.id, detail=unreachable.detail)

    def _finishing(self, batch: Batch, outcomes: list[Outcome], pause: float) -> Callable[[], None]:
        return lambda: self._ledger.finish(batch, outcomes, retry_after_s=pause)

    def _releasing(self, batch: Batch, pause: float, waiting_on: str) -> Callable[[], None]:
        return lambda: self._ledger.release(batch, retry_after_s=pause, waiting_on=waiting_on)

    async def _heartbeat(self, batch: Batch) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            with contextlib.suppress(DependencyUnavailable):
                await _blocking(lambda: self._ledger.renew(batch.id, self._settings.lease_s))

    async def _until_due(self) -> float:
        try:
            due = await _blocking(self._ledger.due_at)
        except DependencyUnavailable:
            return _IDLE_S
        return _IDLE_S if due is None else min(_IDLE_S, max(0.05, due - time.time()))

    async def _sleep(self, seconds: float) -> None:
        """Until poked, or `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)


def _failed(batch: Batch, code: str, detail: str) -> Result:
    return Result([Outcome(position, document.id, Status.FAILED, code, detail) for position, document in batch.items])


async def _blocking(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)
