"""The loop that moves every reindex on: plans the fill, switches, keeps, drops. Where each stands is in the ledger
alone.

filling ──► switching ──► kept ──► dropping ──► gone
   ▲            │          ▲ │         ▲
   └─ not yet ──┘  not yet │ ▼         │
                        rolling back ──┘       before the switch, cancelled: ──► dropping
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from indexer.domain.collections import Reindex, ReindexState
from indexer.encoding.registry import Encoders
from indexer.ledger.ledger import Ledger
from indexer.loops import WakeUps, poll_forever, watched_task
from indexer.settings import IndexerSettings
from indexer.store.base import Store
from indexer.worker.progress import Progress
from model.errors import DependencyUnavailable, RetrievalError

log = structlog.get_logger(__name__)

_WINDOW_BATCHES = 16  # planned ahead; small, for claiming looks at each of them
_FEW_BATCHES = 4  # with no more than this left to fill a switch is tried
_PASSES = 3  # scans after which generations that are still unequal are somebody's bug
_LATE_COPIES = "writes that the store did not answer, which are repeated once it cannot carry them out any more"
_STEP_S = 0.1  # between two looks at a reindex that is under way


class Reindexer:
    """The loop that carries out reindexes, in the event loop that starts it; any number of processes may have one.

    `orders` wakes it when a reindex is ordered; it wakes the workers by `wakeups`.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        encoders: Encoders,
        settings: IndexerSettings,
        progress: Progress,
        *,
        wakeups: WakeUps | None = None,
        orders: WakeUps | None = None,
    ) -> None:
        self._ledger, self._store, self._settings, self._progress = ledger, store, settings, progress
        self._encoders = encoders
        self._wakeups, self._orders = wakeups or WakeUps(), orders or WakeUps()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        self._stopping = False
        polling = poll_forever(
            self._step_all, self._settings.poll_s, failure="cannot read the reindexes", wakeups=self._orders
        )
        self._task = watched_task(polling, "reindexer")

    async def stop(self) -> None:
        """Stop in the middle of any step: each is one transaction, or can be repeated."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def alive(self) -> bool:
        return self._task is not None and (self._stopping or not self._task.done())

    async def _step_all(self) -> float | None:
        """Move every reindex on. Return the seconds until the next look."""
        return min([await self._step(reindex) for reindex in await self._ledger.reindexes.all()], default=None)

    async def _step(self, reindex: Reindex) -> float:
        """Do one step of one reindex. Return the seconds until the next look at it."""
        steps: dict[ReindexState, Callable[[Reindex], Awaitable[float]]] = {
            ReindexState.FILLING: self._fill,
            ReindexState.SWITCHING: self._switch,
            ReindexState.KEPT: self._keep,
            ReindexState.ROLLING_BACK: self._return,
            ReindexState.DROPPING: self._drop,
        }
        try:
            if reindex.state.before_switch and (await self._ledger.jobs.find(reindex.job_id)).cancelling:
                await self._ledger.reindexes.drop(reindex)
                await self._moved(reindex, "reindex cancelled")
                return 0.0
            return await steps[reindex.state](reindex)
        except RetrievalError as error:  # store or encoder are away, or the collection was dropped under us
            log.warning("reindex waits", collection=reindex.collection, state=reindex.state, detail=error.detail)
            return self._settings.retry_base_s

    async def _fill(self, reindex: Reindex) -> float:
        open_count, waits = await self._ledger.reindexes.open_batches(reindex)
        if not reindex.scanned:
            return await self._plan(reindex, _WINDOW_BATCHES - open_count)
        failed = await self._ledger.reindexes.count_failed(reindex)
        if open_count == 0 and failed > reindex.max_failures:
            await self._ledger.reindexes.record_wait(reindex, _too_many(failed, reindex.max_failures))
        elif open_count == 0 and await self._late_copies_are_expected(reindex):
            await self._ledger.reindexes.record_wait(reindex, _LATE_COPIES)
            return self._settings.poll_s
        elif (
            open_count <= _FEW_BATCHES
            and not waits
            and not await self._late_copies_are_expected(reindex)
            and not await self._ledger.reindexes.writes_were_abandoned(reindex)
        ):
            await self._ledger.reindexes.pause(reindex)
            return 0.0
        return _STEP_S

    async def _plan(self, reindex: Reindex, batches: int) -> float:
        if reindex.cursor is None:
            await self._make(reindex)
        if batches <= 0:
            return _STEP_S
        serving = await self._ledger.collections.find(reindex.collection)
        page = await self._store.points(serving.points_name).page(reindex.cursor, self._settings.batch_documents)
        await self._ledger.reindexes.plan_page(reindex, page)
        self._wakeups.work_arrived()
        return 0.0

    async def _make(self, reindex: Reindex) -> None:
        serving = await self._ledger.collections.find(reindex.collection)
        layout = await self._store.points(serving.points_name).layout()
        match = await self._encoders.by_fingerprint(reindex.fingerprint, reindex.model)
        if match is None:
            raise DependencyUnavailable(f"model {reindex.model} ({reindex.fingerprint[:12]}) is not served here")
        latents = match[1].latents > 1
        await self._store.create(
            reindex.points_name,
            reindex.dimensions,
            serving.indexes,
            language=layout.language,
            latents=latents,
            like=serving.points_name,
        )
        if await self._ledger.reindexes.find(reindex.collection) is None:
            await self._store.drop(reindex.points_name)  # the collection was dropped while we did that

    async def _switch(self, reindex: Reindex) -> float:
        if await self._writes_are_open(reindex):
            return await self._wait_or_resume(reindex)
        serving = await self._ledger.collections.find(reindex.collection)
        failed = await self._ledger.reindexes.count_failed(reindex)
        have, had = [await self._store.points(generation.points_name).count() for generation in (reindex, serving)]
        if failed > reindex.max_failures:
            await self._ledger.reindexes.resume(reindex)
        elif have + failed == had:
            if await self._ledger.reindexes.switch(reindex, self._settings.reindex_grace_s):
                await self._moved(reindex, "reindex switched", documents=have, failed=failed)
        elif reindex.passes < _PASSES:
            log.warning("reindex found a difference", collection=reindex.collection, have=have, had=had, failed=failed)
            await self._ledger.reindexes.scan_again(reindex)
        else:
            reason = f"the new generation has {have} documents and {failed} failed, of {had}, after {_PASSES} scans"
            await self._ledger.reindexes.drop(reindex, failed=reason)
            await self._moved(reindex, "reindex failed", reason=reason)
        return 0.0

    async def _keep(self, reindex: Reindex) -> float:
        left_s = await self._left_s(reindex)
        if left_s > 0:
            return left_s
        lingers_s = reindex.since + self._settings.reindex_linger_s - await self._ledger.housekeeping.now()
        # No longer than that where the clock was set back.
        if await self._ledger.reindexes.drop(reindex, min(max(0.0, lingers_s), self._settings.reindex_linger_s)):
            await self._moved(reindex, "previous generation is given up")
        return 0.0

    async def _return(self, reindex: Reindex) -> float:
        if not (await self._ledger.collections.find(reindex.collection)).paused:  # it was put off
            if await self._late_copies_are_expected(reindex):
                return self._settings.poll_s
            if await self._ledger.reindexes.writes_were_abandoned(reindex):
                return _STEP_S
            await self._ledger.reindexes.pause(reindex)
            return 0.0
        if await self._writes_are_open(reindex):
            return await self._wait_or_resume(reindex)
        if await self._ledger.reindexes.switch_back(reindex, self._settings.reindex_linger_s):
            await self._moved(reindex, "reindex rolled back")
        return 0.0

    async def _drop(self, reindex: Reindex) -> float:
        left_s = await self._left_s(reindex)
        if left_s > 0:
            return left_s
        await self._store.drop(reindex.points_name)
        await self._ledger.reindexes.forget(reindex)
        return 0.0

    async def _writes_are_open(self, reindex: Reindex) -> bool:
        return await self._ledger.reindexes.writes_are_open(reindex) or await self._late_copies_are_expected(reindex)

    async def _late_copies_are_expected(self, reindex: Reindex) -> bool:
        """Return whether the store may still carry out a write of the reindex: after a switch nothing would mend it."""
        return self._store.writes_late and await self._ledger.repairs.late_copies_are_expected(reindex.collection)

    async def _wait_or_resume(self, reindex: Reindex) -> float:
        paused_s = await self._ledger.housekeeping.now() - reindex.since
        # A clock that was set back since gives a negative time, which may be hours.
        late = await self._late_copies_are_expected(reindex)
        abandoned = late or await self._ledger.reindexes.writes_were_abandoned(reindex)
        if abandoned or abs(paused_s) > self._settings.max_pause_s:
            await self._ledger.reindexes.resume(reindex)
            await self._moved(reindex, "switch put off, writes go on", paused_s=round(paused_s, 1))
        return _STEP_S

    async def _left_s(self, reindex: Reindex) -> float:
        return reindex.seconds_left(await self._ledger.housekeeping.now())

    async def _moved(self, reindex: Reindex, event: str, **fields: object) -> None:
        log.info(event, collection=reindex.collection, generation=reindex.generation, model=reindex.model, **fields)
        self._wakeups.work_arrived()  # what was paused goes on
        self._progress.notify()


def _too_many(failed: int, limit: int) -> str:
    return (
        f"{failed} documents could not be embedded by the new model, the limit is {limit}: see the failures, then ask "
        "for "
        "the reindex again, with max_failures or after mending the cause, or cancel it"
    )
