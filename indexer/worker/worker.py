"""The worker: claims batches, runs them through the pipeline, records what came of them. One of the places that may catch anything.

claim ─► pipeline ─┬─ outcomes ───────────────► finish
 lease renewed     ├─ a URL's host is down ───► finish the others; an attempt is counted for its documents
 all the while     ├─ something is away ──────► release and pause; nobody is at fault
                   ├─ nobody foresaw it ──────► an attempt is counted; the last one is document by document
                   ├─ encoder or store dies ──► the same as if this process had
                   └─ the process dies ───────► whoever claims the batch next has nothing else in flight; died again, it goes
                                                document by document, each written down before it is tried
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
from typing import Any, Protocol

import structlog
from opentelemetry.trace import SpanKind

from indexer.backoff import delay_after_s, delay_s
from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keeper
from indexer.domain.jobs import Batch, JobKind, Outcome, Status
from indexer.encoding.encoder import Encoder
from indexer.encoding.registry import Encoders
from indexer.errors import CollectionUnavailable, Died
from indexer.ledger.batches import SOLO_AFTER, Settled
from indexer.ledger.ledger import Ledger
from indexer.observability import tracing
from indexer.observability.watch import NOBODY, Watch
from indexer.settings import IndexerSettings
from indexer.store.base import Store
from indexer.worker.claim import Claim
from indexer.worker.pipeline import ImageFetcher, Pipeline, Result
from indexer.worker.progress import Progress
from indexer.worker.runner import LeaseLost, Runner
from model.errors import DependencyUnavailable, RetrievalError

log = structlog.get_logger(__name__)
_STOP_S = 5.0  # the rest of `grace_s` is for requests before and the batcher after
_NAMED_JOBS = 3  # in each line of the log; a claim of small batches may have many
_NAMED_DOCUMENTS = 64
_TIDY_S = 60.0  # between two looks for what can be deleted; a step is a few small transactions
_TIDY_STEP_S = 0.05  # between two steps: tidying must not be what the database is busy with


class Chore(Protocol):
    """What a worker does besides; it goes on until it is cancelled, and gives back within moments what it has in hand then."""

    async def run(self) -> None: ...

    def poke(self) -> None:
        """There may be work, or something has been done."""
        ...


class Worker:
    """Runs in the event loop that starts it. Bounded: `concurrency` encoder calls' worth of documents in flight, and as many of a
    reindex.

    A batch that fails because something it needs does not answer goes back and waits, for ever if need be, visibly. One that
    fails otherwise is tried `max_attempts` times, at the end document by document, so that only the poison becomes a failure.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        encoder: Encoder | Encoders,
        blobs: Blobs,
        fetcher: ImageFetcher,
        settings: IndexerSettings,
        progress: Progress,
        *,
        keeper: Keeper | None = None,
        chores: Sequence[Chore] = (),
        rng: random.Random | None = None,
        watch: Watch = NOBODY,
    ) -> None:
        self._ledger, self._settings, self._progress = ledger, settings, progress
        encoders = Encoders.of(encoder)
        pipeline = Pipeline(encoders.first, blobs, fetcher, keeper)
        self._runner = Runner(ledger, store, encoders, pipeline, settings.lease_s)
        self._rng = rng or random.Random()
        self._watch = watch
        self._wake = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._in_flight = 0
        self._suspicious = False  # what is in flight may kill the process: nothing is to be blamed along with it
        self._loops: list[asyncio.Task[None]] = []
        self._chores = chores
        self._doing: list[asyncio.Task[None]] = []
        self._stopping = False
        self._waits = 0  # in a row, of any batch, on what every batch needs
        self._paused_until = 0.0

    async def start(self) -> None:
        self._stopping = False
        # Loops of their own for a reindex: were its encoder slow or silent, it would keep the others from being written.
        self._loops = [
            asyncio.create_task(self._loop(filling), name=f"{'filler' if filling else 'worker'}-{number}")
            for filling in (False, True)
            for number in range(self._settings.concurrency)
        ]
        self._loops.append(asyncio.create_task(self._tidy(), name="worker-tidy"))
        self._doing = [asyncio.create_task(chore.run(), name=type(chore).__name__) for chore in self._chores]
        for task in (*self._loops, *self._doing):
            task.add_done_callback(_report_death)

    async def stop(self, timeout_s: float = _STOP_S) -> None:
        """Batches in flight are finished, or after `timeout_s` given back."""
        self._stopping = True
        self.poke()
        for chore in self._doing:
            chore.cancel()
        await asyncio.gather(*self._doing, return_exceptions=True)
        if self._loops:
            *working, tidying = self._loops
            tidying.cancel()
            _, late = await asyncio.wait(working, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []

    @property
    def alive(self) -> bool:
        """False once a loop has ended by itself: nothing it claimed would be worked on any more."""
        tasks = (*self._loops, *self._doing)
        return bool(self._loops) and (self._stopping or not any(task.done() for task in tasks))

    def poke(self) -> None:
        """There may be work."""
        self._wake.set()
        for chore in self._chores:
            chore.poke()

    async def _loop(self, filling: bool) -> None:
        while not self._stopping:
            self._wake.clear()
            if (paused_s := self._paused_until - time.time()) > 0:
                await self._sleep(paused_s)
                continue
            try:
                claim = await self._claim(filling)
            except DependencyUnavailable as error:
                log.warning("cannot claim work", detail=error.detail)
                self._pause(error)
                continue
            if claim is not None:
                await self._told(claim)
            else:
                await self._sleep(await self._until_due())

    async def _claim(self, filling: bool) -> Claim | None:
        """One encoder call's worth of what is due, in as many batches as that takes."""
        async with self._claiming:
            if self._suspicious:
                return None
            documents = self._settings.batch_documents
            batches = await self._ledger.batches.claim(
                documents,
                self._settings.lease_s,
                max_documents=documents,
                alone=self._in_flight == 0,
                filling=filling,
            )
            if not batches:
                return None
            self._in_flight += 1
            self._suspicious = any(batch.crashes for batch in batches)
            return Claim(tuple(batches))

    async def _told(self, claim: Claim) -> None:
        """The work, with the job in every line of the log, and in the trace of the request that brought the first of its batches."""
        first, *others = claim.batches
        jobs = list(dict.fromkeys(batch.job_id for batch in claim.batches))
        about: dict[str, str | int] = {
            "collection": first.collection,
            "job": first.job_id,
            "documents": len(claim.whole.items),
        }
        links = {batch.trace for batch in others if batch.trace and batch.trace != first.trace}
        with (
            structlog.contextvars.bound_contextvars(job=",".join(jobs[:_NAMED_JOBS])),
            tracing.span(
                "index", SpanKind.CONSUMER, parent=tracing.context_of(first.trace), links=sorted(links), **about
            ),
        ):
            await self._work(claim)

    async def _work(self, claim: Claim) -> None:
        """From claim to outcome; whatever raises, each batch is either settled or given back."""
        beat = asyncio.create_task(self._heartbeat(claim), name="worker-heartbeat")
        beat.add_done_callback(_report_death)
        try:
            if claim.batches[0].crashes >= min(SOLO_AFTER, self._settings.max_attempts):
                await self._solo(claim)
            else:
                await self._finish(claim, await self._attempt(claim))
            self._waits = 0
        except asyncio.CancelledError:
            await asyncio.shield(self._releasing(claim, 0.0, None)())
            raise
        except LeaseLost:
            log.warning("lease lost", batch=claim.batches[0].id, job=claim.batches[0].job_id)
            with contextlib.suppress(DependencyUnavailable):
                await self._releasing(claim, 0.0, None)()  # those of the claim that are still ours
        except RetrievalError as error:
            await self._give_back(claim, error)
        except Exception as error:
            first = claim.batches[0]
            log.exception("batch failed", batch=first.id, job=first.job_id, attempt=claim.attempts + 1)
            await self._give_back(claim, error)
        finally:
            beat.cancel()
            self._in_flight -= 1
            self._suspicious = False
        self.poke()  # what waited for this batch's documents may be due
        self._progress.notify()

    async def _attempt(self, claim: Claim) -> Result:
        batch = claim.whole
        last = batch.attempts + 1 >= self._settings.max_attempts
        if not last or len(batch.items) == 1:
            return await self._runner.run(claim, batch, last_attempt=last)
        whole = Result()
        for item in batch.items:
            try:
                result = await self._one(claim, replace(batch, items=(item,)), last_attempt=True)
            except Died:
                raise
            except RetrievalError as error:
                whole.waiting = error
                break
            whole.outcomes += result.outcomes
            whole.waiting = whole.waiting or result.waiting
        return whole

    async def _solo(self, claim: Claim) -> None:
        """A batch with which workers, or encoders, died: each document is written down before it is tried and recorded after, so
        that the one that kills is known, and is a failure once it has done so `max_attempts` times.

        An outage is no document's fault: before each is tried, encoder and store have to answer for another one.
        """
        (batch,) = claim.batches
        last = batch.attempts + 1 >= self._settings.max_attempts
        waiting: RetrievalError | None = None
        for item in batch.items:
            one = replace(batch, items=(item,))
            if batch.suspect == item[0] and batch.crashes >= self._settings.max_attempts:
                result = _failed(one, "worker_died", f"the worker died {batch.crashes} times while indexing it")
            elif await self._ledger.batches.suspect(batch, item[0]):
                try:
                    result = await self._one(claim, replace(one, suspect=item[0]), last_attempt=last)
                except Died as error:
                    if (deaths := batch.crashes + 1) < self._settings.max_attempts:
                        raise
                    result = _failed(one, error.failure, f"{error.detail}, {deaths} times while indexing it")
            else:
                raise LeaseLost
            waiting = waiting or result.waiting
            if result.outcomes:
                await self._settle([(batch, result.outcomes)], keep=True)
                batch = replace(batch, items=tuple(each for each in batch.items if each != item))
                claim.batches = (batch,)
        if batch.items:
            pause = delay_s(batch.attempts, self._settings, self._rng)
            await self._settle([(batch, [])], retry_after_s=pause, waiting_on=waiting.detail[:300] if waiting else None)

    async def _one(self, claim: Claim, batch: Batch, *, last_attempt: bool) -> Result:
        """A batch of one document, whose error is its own: on the last attempt its failure, else it has no outcome yet.

        Raises what is not its own: `LeaseLost`, and a `RetrievalError` of something that is away.
        """
        try:
            return await self._runner.run(claim, batch, last_attempt=last_attempt)
        except LeaseLost:
            raise
        except RetrievalError as error:
            if error.retryable:
                raise
            return _failed(batch, error.code, error.detail)
        except Exception as error:
            log.exception("document failed", document=batch.items[0][1].id, job=batch.job_id)
            return _failed(batch, "internal", f"{type(error).__name__} while indexing") if last_attempt else Result()

    async def _finish(self, claim: Claim, result: Result) -> None:
        pause = delay_after_s(result.waiting, claim.attempts, self._settings, self._rng) if result.waiting else 0.0
        waiting_on = result.waiting.detail[:300] if result.waiting else None
        await self._settle(claim.settled(result.outcomes), retry_after_s=pause, waiting_on=waiting_on)

    async def _settle(self, settled: Sequence[Settled], **options: Any) -> None:
        if not await self._ledger.batches.finish(settled, **options):
            written = [one.document_id for _, outcomes in settled for one in outcomes if one.status is Status.INDEXED]
            log.warning("written while a lease was lost", documents=written[:_NAMED_DOCUMENTS])
            raise LeaseLost
        self._tell(settled, waits=options.get("waiting_on") is not None, keep=options.get("keep", False))

    def _tell(self, settled: Sequence[Settled], *, waits: bool = False, keep: bool = False) -> None:
        for batch, outcomes in settled:
            for status, count in Counter(outcome.status for outcome in outcomes).items():
                deleted = batch.kind is JobKind.DELETE and status is Status.INDEXED
                self._watch.settled("deleted" if deleted else status, count)
            if len(outcomes) < len(batch.items) and not keep:
                self._watch.tried_again("waiting" if waits else "attempt")

    async def _give_back(self, claim: Claim, error: Exception) -> None:
        """Batches wait for what they need; or count an attempt, and after the last one their documents have failed."""
        if isinstance(error, RetrievalError) and error.retryable:
            alone = isinstance(error, CollectionUnavailable)
            pause = delay_s(claim.releases, self._settings, self._rng) if alone else self._pause(error)
            first, detail = claim.batches[0], error.detail[:300]
            log.warning("batch waits", batch=first.id, job=first.job_id, detail=detail, retry_after_s=round(pause, 2))
            crashed = isinstance(error, Died)
            call = self._releasing(claim, pause, detail, whole_collection=alone, crashed=crashed)
            settled: list[Settled] = [(batch, []) for batch in claim.batches]
        else:
            detail = error.detail if isinstance(error, RetrievalError) else f"{type(error).__name__} while indexing"
            code = error.code if isinstance(error, RetrievalError) else "internal"
            settled = []
            for batch in claim.batches:
                dead = batch.attempts + 1 >= self._settings.max_attempts
                settled.append((batch, _failed(batch, code, detail).outcomes if dead else []))
            pause = delay_s(claim.attempts, self._settings, self._rng)
            call = self._finishing(settled, pause)
        if await self._recorded(claim, call):
            self._tell(settled, waits=isinstance(error, RetrievalError) and error.retryable)

    async def _recorded(self, claim: Claim, call: Callable[[], Awaitable[object]]) -> bool:
        """Tried for as long as a lease, for else whoever comes next would wait until this one's has run out, and take its holder
        for dead."""
        deadline = time.monotonic() + self._settings.lease_s
        for tries in itertools.count():
            try:
                await call()
            except DependencyUnavailable as unreachable:
                log.warning("cannot record an outcome", batch=claim.batches[0].id, detail=unreachable.detail)
                if self._stopping or time.monotonic() > deadline:
                    break
                await asyncio.sleep(delay_s(tries, self._settings, self._rng))
            else:
                return True
        return False

    def _pause(self, error: RetrievalError) -> float:
        """Nothing is claimed for a while, else every batch in turn would meet the same trouble. Seconds until the next claim;
        batches that meet it at the same time count as one."""
        now = time.time()
        if now >= self._paused_until:
            self._paused_until = now + delay_after_s(error, self._waits, self._settings, self._rng)
            self._waits += 1
        return self._paused_until - now

    def _finishing(self, settled: Sequence[Settled], pause: float) -> Callable[[], Awaitable[object]]:
        return lambda: self._ledger.batches.finish(settled, retry_after_s=pause)

    def _releasing(
        self, claim: Claim, pause: float, waiting_on: str | None, **options: bool
    ) -> Callable[[], Awaitable[object]]:
        return lambda: self._ledger.batches.release(
            claim.batches, retry_after_s=pause, waiting_on=waiting_on, **options
        )

    async def _heartbeat(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            with contextlib.suppress(DependencyUnavailable):
                await self._ledger.batches.renew(claim.batches, self._settings.lease_s)

    async def _tidy(self) -> None:
        """Finished jobs that are old enough go, and what died half-way."""
        while True:
            await asyncio.sleep(_TIDY_S * self._rng.uniform(0.5, 1.0))
            try:
                more = True
                while more:
                    more = await self._ledger.housekeeping.tidy(self._settings.job_retention_s)
                    await asyncio.sleep(_TIDY_STEP_S)
            except DependencyUnavailable as error:
                log.warning("cannot tidy the ledger", detail=error.detail)

    async def _until_due(self) -> float:
        """Seconds, spread: the workers of many processes do not look all at once."""
        poll_s = self._settings.poll_s * self._rng.uniform(0.5, 1.0)
        try:
            due_s = await self._ledger.batches.due_in_s()
        except DependencyUnavailable:
            return poll_s
        return poll_s if due_s is None else min(poll_s, max(0.05, due_s))

    async def _sleep(self, seconds: float) -> None:
        """Until poked, or `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)


def _failed(batch: Batch, code: str, detail: str) -> Result:
    return Result([Outcome(position, document.id, Status.FAILED, code, detail) for position, document in batch.items])


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("worker loop died", task=task.get_name(), exc_info=error)
