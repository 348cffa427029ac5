"""The worker: loops that claim batches and run them, beside the periodic work of this process.

claim ─┬─ no image to fetch ──► an attempt in the loop itself
       └─ images behind URLs ─┬─ a place is free ─► an attempt beside the loops
                              └─ none ────────────► given back for a while
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog
from opentelemetry.trace import SpanKind

from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keeper
from indexer.domain.incoming import DocumentBounds
from indexer.encoding.encoder import Encoder
from indexer.encoding.registry import Encoders
from indexer.ledger.ledger import Ledger
from indexer.loops import WakeUps, poll_forever, watched_task
from indexer.observability import tracing
from indexer.observability.watch import NOBODY, Watch
from indexer.settings import IndexerSettings
from indexer.store.base import Store
from indexer.worker.attempts import Attempts, Pause
from indexer.worker.claim import Claim
from indexer.worker.hosts import FetchPlaces, HostBreaker, Place
from indexer.worker.pipeline import ImageFetcher
from indexer.worker.progress import Progress
from indexer.worker.runner import Runner
from model.errors import DependencyUnavailable

log = structlog.get_logger(__name__)
# The remaining grace time is for requests before and the batcher after.
_STOP_S = 5.0
# Jobs named in each line of the log; a claim of small batches may have many.
_NAMED_JOBS = 3
# Between two looks for what can be deleted; a step is a few small transactions.
_TIDY_S = 60.0
# A write that the store has not answered for so long is carried out, or never will be: Qdrant's nodes give up a call
# among themselves after 60 s.
LATE_WRITE_S = 120.0
# Between two steps: tidying must not be what the database is busy with.
_TIDY_STEP_S = 0.05
# Places of claims that fetch images, for each loop.
_FETCH_PLACES = 2
# A claim without a place is deferred for this long, and for a little longer with each claim that is deferred already.
_DEFER_S, _DEFER_EACH_S, _DEFER_MAX_S = 2.0, 0.1, 60.0


class Chore(Protocol):
    """Periodic work beside the batches. It goes on until it is cancelled, and gives back within moments what it has in
    hand then.
    """

    async def run(self) -> None: ...


class Worker:
    """The worker of a process, in the event loop that starts it. Bounded: `concurrency` encoder calls' worth of
    documents in flight, as many of a reindex, and twice as many whose images are being fetched.

    A batch that fails because a dependency does not answer goes back and waits, for ever if need be, visibly. One that
    fails otherwise is tried `max_attempts` times, at the end document by document, so that only the bad documents fail.
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
        wakeups: WakeUps | None = None,
        keeper: Keeper | None = None,
        bounds: DocumentBounds | None = None,
        chores: Sequence[Chore] = (),
        rng: random.Random | None = None,
        watch: Watch = NOBODY,
    ) -> None:
        self._ledger, self._settings, self._progress, self.chores = ledger, settings, progress, chores
        self._store = store
        self._wakeups = wakeups or WakeUps()
        self._rng = rng or random.Random()
        encoders = Encoders.of(encoder)
        breaker = HostBreaker(fetcher, settings)
        bounds = bounds or DocumentBounds()
        runner = Runner(ledger, store, encoders, blobs, breaker, keeper, settings.lease_s, bounds)
        self._pause = Pause(settings, self._rng)
        self._attempts = Attempts(
            ledger, runner, settings, self._pause, self._rng, watch, stopping=lambda: self._stopping
        )
        self._places = FetchPlaces(_FETCH_PLACES * settings.concurrency)
        self._claiming = asyncio.Lock()
        self._in_flight = 0
        # What is in flight may kill the process: nothing is to be blamed along with it.
        self._suspicious = False
        self._loops: list[asyncio.Task[None]] = []
        self._periodic: list[asyncio.Task[None]] = []
        self._fetching: set[asyncio.Task[None]] = set()
        self._deferred_until: deque[float] = deque()
        self._stopping = self._failed = False

    async def start(self) -> None:
        self._stopping = self._failed = False
        # Loops of their own for a reindex: were its encoder slow or silent, it would keep other documents from being
        # written.
        self._loops = [
            watched_task(self._claim_forever(reindexing), f"{'reindex' if reindexing else 'worker'}-{number}")
            for reindexing in (False, True)
            for number in range(self._settings.concurrency)
        ]
        tidying = poll_forever(self._tidy, _TIDY_S, failure="cannot tidy the ledger", rng=self._rng, wait_first=True)
        self._periodic = [watched_task(tidying, "worker-tidy")]
        self._periodic += [watched_task(chore.run(), type(chore).__name__) for chore in self.chores]

    async def stop(self, timeout_s: float = _STOP_S) -> None:
        """Finish the batches in flight, or give them back after `timeout_s`."""
        self._stopping = True
        self._wakeups.work_arrived()
        for task in self._periodic:
            task.cancel()
        await asyncio.gather(*self._periodic, return_exceptions=True)
        working = [*self._loops, *self._fetching]
        if working:
            _, late = await asyncio.wait(working, timeout=timeout_s)
            # A loop may have started another fetch before it ended.
            for task in (*late, *self._fetching):
                task.cancel()
            await asyncio.gather(*working, *self._fetching, return_exceptions=True)
        self._loops = []

    @property
    def alive(self) -> bool:
        """False once a loop has ended by itself: nothing it claimed would be worked on any more."""
        tasks = (*self._loops, *self._periodic)
        return bool(self._loops) and (self._stopping or not (self._failed or any(task.done() for task in tasks)))

    async def _claim_forever(self, reindexing: bool) -> None:
        await poll_forever(
            lambda: self._claim_and_run(reindexing),
            self._settings.poll_s,
            failure="cannot claim work",
            wakeups=self._wakeups,
            rng=self._rng,
            stopped=lambda: self._stopping,
        )

    async def _claim_and_run(self, reindexing: bool) -> float | None:
        """Return the seconds until the next claim."""
        if self._pause.remaining_s > 0:
            return self._pause.remaining_s
        try:
            claims = await self._claim(reindexing)
        except DependencyUnavailable as error:
            log.warning("cannot claim work", detail=error.detail)
            return self._pause.begin(error)
        if not claims:
            return await self._until_due()
        await self._run(claims)
        return 0.0

    async def _claim(self, reindexing: bool) -> list[Claim]:
        """Claim one encoder call's worth of what is due, in as many batches as that takes."""
        async with self._claiming:
            if self._suspicious:
                return []
            documents = self._settings.batch_documents
            batches = await self._ledger.batches.claim(
                documents,
                self._settings.lease_s,
                max_documents=documents,
                alone=self._in_flight == 0,
                filling=reindexing,
            )
            claims = Claim(tuple(batches)).split()
            self._in_flight += len(claims)
            self._suspicious = self._suspicious or any(batch.crashes for batch in batches)
            return claims

    async def _run(self, claims: Sequence[Claim]) -> None:
        """Run the claims that fetch nothing here, and start the others beside this loop, the latter first."""
        remaining = deque(claims)
        try:
            while remaining:
                claim = remaining[0]
                place = await self._places.take(claim.job_ids) if claim.fetches else None
                remaining.popleft()
                if place is not None:
                    self._start_fetching(claim, place)
                elif claim.fetches:
                    await self._defer(claim)
                else:
                    await self._run_claim(claim)
        finally:
            for claim in remaining:
                self._in_flight -= 1
                await asyncio.shield(self._attempts.release(claim))

    def _start_fetching(self, claim: Claim, place: Place) -> None:
        task = watched_task(self._run_claim(claim), "worker-fetch")
        self._fetching.add(task)

        def end(task: asyncio.Task[None]) -> None:
            self._fetching.discard(task)
            self._places.leave(place)
            self._failed = self._failed or (not task.cancelled() and task.exception() is not None)

        task.add_done_callback(end)

    async def _defer(self, claim: Claim) -> None:
        """Give back a claim for whose images there is no place. The more of them there are, the longer they wait."""
        now = time.monotonic()
        while self._deferred_until and self._deferred_until[0] < now:
            self._deferred_until.popleft()
        pause_s = min(_DEFER_MAX_S, _DEFER_S + _DEFER_EACH_S * len(self._deferred_until))
        self._deferred_until.append(now + pause_s)
        await self._attempts.defer(claim, pause_s, "the images of other documents, which are being fetched")
        self._in_flight -= 1

    async def _run_claim(self, claim: Claim) -> None:
        """Run an attempt with the job in every line of the log, in the trace of the request that brought its first
        batch.
        """
        first = claim.batches[0]
        links = {batch.trace for batch in claim.batches[1:] if batch.trace and batch.trace != first.trace}
        about: dict[str, str | int] = {
            "collection": first.collection,
            "job": first.job_id,
            "documents": len(claim.whole.items),
        }
        parent = tracing.context_of(first.trace)
        try:
            with (
                structlog.contextvars.bound_contextvars(job=",".join(claim.job_ids[:_NAMED_JOBS])),
                tracing.span("index", SpanKind.CONSUMER, parent=parent, links=sorted(links), **about),
            ):
                await self._attempts.run(claim)
        finally:
            self._in_flight -= 1
            self._suspicious = False
        # What waited for the documents of this batch may be due.
        self._wakeups.work_arrived()
        self._progress.notify()

    async def _tidy(self) -> float | None:
        """Delete finished jobs that are old enough, and submissions that were cut short; repair what a late write may
        have undone."""
        repaired = await self._ledger.repairs.repair_late_writes(LATE_WRITE_S) if self._store.writes_late else 0
        if repaired:
            log.info("late writes repaired", documents=repaired)
            self._wakeups.work_arrived()
        unfinished = await self._ledger.housekeeping.tidy(self._settings.job_retention_s)
        return _TIDY_STEP_S if repaired or unfinished else None

    async def _until_due(self) -> float | None:
        try:
            due_s = await self._ledger.batches.due_in_s()
        except DependencyUnavailable:
            return None
        return None if due_s is None else max(0.05, due_s)
