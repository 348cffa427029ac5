"""The importer: plans imports and reads their units into batches, which the workers index like posted ones. A chore of
the worker.

claim a step ─┬─ plan it ──► a step per unit ─────────────────────────────► the job grows no more
              └─ read it ──► 64 records: images stored, a batch, failures ─► … ─► done, or given back where it stands

A store of files that does not answer is waited for, for ever if need be. A file that kills the process, or that nobody
foresaw, is tried `max_attempts` times; then what is left of the unit are failures.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

import structlog

from indexer.blobs.image_store import Blobs
from indexer.domain.documents import Incoming, Rejected
from indexer.domain.jobs import Outcome, Status
from indexer.imports.planner import Imports, Unit
from indexer.intake import document_of
from indexer.ledger.imports import Step
from indexer.ledger.ledger import Ledger
from indexer.loops import WakeUps, heartbeat, poll_forever
from indexer.settings import IndexerSettings
from model.errors import DependencyUnavailable, InvalidInput, NotFound, RetrievalError
from model.records.base import ReadingStopped

T = TypeVar("T")
log = structlog.get_logger(__name__)

_UNITS, _PLAN_S = 50, 1.0  # of one transaction, and of the search for them
_LISTED = 1000  # failures of one transaction
_RECORDS_BYTES = 64 * 2**20  # of images read at once
# Between two looks whether a step that is being read is still wanted: its job may be cancelled meanwhile.
_LISTEN_S = 0.5
# A read that takes longer, such as one long line or a slow host, no longer counts as a reader; so many may at once.
_SLOW_READ_S, _SPARE_READERS = 2.0, 3
_BUSY_S = 0.5  # between two looks while what was read is being indexed

Item = tuple[int, Incoming | Rejected]


class StepLost(Exception):
    """The step is another's by now, or its job is being cancelled or gone."""


class Importer:
    """The loop that carries out imports, in the event loop that starts it; any number of processes may have one. It
    wakes the workers by `wakeups`.

    Each of `readers` holds the records of one batch, whose images have at most 64 MiB or are one. While a read is slow,
    another reader does the steps of other jobs in its place.
    """

    # Of one job, read and not yet indexed: seconds of work for several machines with a GPU.
    ahead_documents = 4096

    def __init__(
        self,
        ledger: Ledger,
        blobs: Blobs,
        imports: Imports,
        settings: IndexerSettings,
        *,
        readers: int = 1,
        wakeups: WakeUps | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._ledger, self._blobs, self._imports, self._settings = ledger, blobs, imports, settings
        self._readers, self._wakeups, self._rng = readers, wakeups or WakeUps(), rng or random.Random()
        self._threads = ThreadPoolExecutor(readers + _SPARE_READERS, thread_name_prefix="import")
        self._slow_jobs: list[str] = []
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Run until cancelled; work in progress is then released."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for number in range(self._readers):
                    self._group.create_task(self._loop(), name=f"import-{number}")
        finally:
            self._group = None
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _loop(self, spare: bool = False, stopped: Callable[[], bool] = lambda: False) -> None:
        await poll_forever(
            partial(self._claim_and_work, spare),
            self._settings.poll_s,
            failure="cannot look for imports",
            wakeups=self._wakeups,
            rng=self._rng,
            stopped=stopped,
        )

    async def _claim_and_work(self, spare: bool) -> float | None:
        """Return the seconds until the next claim. A spare reader leaves out the jobs whose reads are slow."""
        if not await self._ledger.imports.steps_remain():
            return None
        without = frozenset(self._slow_jobs) if spare else frozenset()
        step = await self._ledger.imports.claim(self._settings.lease_s, self.ahead_documents, without)
        if step is None:
            return _BUSY_S
        await self._work(step)
        return 0.0

    async def _work(self, step: Step) -> None:
        """Run one claimed step to completion or release it."""
        renew = partial(self._ledger.imports.renew, step, self._settings.lease_s)
        stop = threading.Event()
        async with heartbeat(renew, self._settings.lease_s / 3):
            try:
                if step.crashes >= self._settings.max_attempts:
                    await self._give_up(step, "worker_died", f"the worker died {step.crashes} times while reading it")
                elif step.unit is None:
                    await self._plan(step, stop)
                else:
                    await self._read(step, Unit.from_json(step.unit), stop)
            except asyncio.CancelledError:
                await asyncio.shield(self._give_back(step))
                raise
            except (StepLost, ReadingStopped):
                await self._give_back(step)
            except RetrievalError as error:
                await self._after(step, error)
            except Exception as error:
                log.exception("import failed", job=step.job_id, step=step.id, attempt=step.crashes + 1)
                await self._after(step, error)
            finally:
                # Whatever a thread still reads for it ends with its next buffer.
                stop.set()

    # --- planning

    async def _plan(self, step: Step, stop: threading.Event) -> None:
        """Plan an import. An interrupted plan starts from the beginning and skips what was planned, because the same
        files give the same units."""
        units = self._imports.plan(**step.source, stop=stop)
        goes_on, error = True, None
        while goes_on and error is None:
            batch, error = await self._in_thread(lambda: _some(units), step, stop)
            goes_on = bool(batch)
            new = [unit for unit in batch if unit.first >= step.read]
            if new and new[0].first != step.read:
                raise InvalidInput(f"{new[0].uri.rpartition('/')[2]} has changed while it was being planned")
            if new:
                wire = [unit.as_json() for unit in new]
                if not await self._ledger.imports.add_units(step, wire, self._settings.lease_s):
                    raise StepLost
                step.read += sum(unit.count for unit in new)
                self._wakeups.work_arrived()
        if error is not None:
            raise error
        if not await self._ledger.imports.end_plan(step):
            raise StepLost
        log.info("import planned", job=step.job_id, documents=step.read)

    # --- reading

    async def _read(self, step: Step, unit: Unit, stop: threading.Event) -> None:
        last = step.crashes + 1 >= self._settings.max_attempts
        async for records in self._records(step, unit, stop):
            waiting = await self._add(step, records, last_attempt=last)
            while (
                step.read < step.size and waiting > 2 * self.ahead_documents
            ):  # a compressed file is one unit, however large
                await asyncio.sleep(_BUSY_S)
                waiting = await self._ledger.imports.documents_waiting(step.job_id)

    async def _records(self, step: Step, unit: Unit, stop: threading.Event) -> AsyncIterator[list[Item]]:
        """Yield the unread records of a step, a batch at a time."""
        items: Iterator[Item] = self._imports.read(unit, stop)
        if step.only is not None:
            positions = frozenset(step.only)
            items = (item for item in items if item[0] in positions)
        items = islice(items, step.read, None)
        while batch := await self._in_thread(lambda: list(_batch(items, self._settings.batch_documents)), step, stop):
            yield batch

    async def _add(self, step: Step, records: Sequence[Item], *, last_attempt: bool) -> int:
        """Add records, and return how many documents of the job are read and not done. All records are added at once;
        if that fails for good, one by one, so that a bad record harms only itself."""
        try:
            return await self._put(step, records)
        except StepLost:
            raise
        except RetrievalError as error:
            if error.retryable:
                raise
            if len(records) == 1:
                return await self._put(step, [_refused(records[0], error.code, error.detail)])
        except Exception as error:
            if not last_attempt:
                raise
            log.exception("records failed", job=step.job_id, step=step.id, records=len(records))
            if len(records) == 1:
                detail = f"{type(error).__name__} while storing it"
                return await self._put(step, [_refused(records[0], "internal", detail)])
        return [await self._add(step, [record], last_attempt=last_attempt) for record in records][-1]

    async def _put(self, step: Step, records: Sequence[Item]) -> int:
        """Store the images of records, then the records (docs/promises.md#promise-3)."""
        good = [item for _, item in records if isinstance(item, Incoming)]
        documents = await asyncio.gather(*(document_of(self._blobs, item) for item in good))
        bad = [
            Outcome(position, item.id or "", Status.FAILED, item.code, item.detail)
            for position, item in records
            if isinstance(item, Rejected)
        ]
        placed = list(zip((item.position for item in good), documents, strict=True))
        left_out = Counter(reason for item in good for reason in item.left_out)
        waiting = await self._ledger.imports.add_records(step, placed, bad, self._settings.lease_s, left_out)
        if waiting is None:
            raise StepLost
        step.read, step.crashes, step.releases = step.read + len(records), 0, 0
        self._wakeups.work_arrived()
        return waiting

    # --- what went wrong

    async def _after(self, step: Step, error: Exception) -> None:
        """Wait for a dependency that does not answer. Record as a failure what is wrong for good or was tried often
        enough."""
        if isinstance(error, RetrievalError) and error.retryable:
            log.warning("import waits", job=step.job_id, step=step.id, detail=error.detail)
            await self._give_back(step, error.detail[:300])
        elif isinstance(error, RetrievalError):
            await self._give_up(step, error.code, error.detail)
        elif step.crashes + 1 >= self._settings.max_attempts:
            await self._give_up(step, "internal", f"{type(error).__name__} while reading it")
        else:
            await self._give_back(step, f"{type(error).__name__} while reading", crashed=True)

    async def _give_back(self, step: Step, waiting_on: str | None = None, *, crashed: bool = False) -> None:
        """Release the step; the ledger keeps its progress."""
        tries = step.crashes if crashed else step.releases
        pause_s = 0.0 if waiting_on is None else self._settings.backoff.delay_s(tries, self._rng)
        with contextlib.suppress(DependencyUnavailable):  # the lease will run out
            await self._ledger.imports.release(step, retry_after_s=pause_s, waiting_on=waiting_on, crashed=crashed)

    async def _give_up(self, step: Step, code: str, detail: str) -> None:
        """Record the remaining records of a step as failures."""
        log.warning("import cannot go on", job=step.job_id, step=step.id, code=code, detail=detail)
        with contextlib.suppress(DependencyUnavailable):
            if step.unit is None:
                await self._ledger.imports.end_plan(step, (code, detail))
                return
            remaining = iter(_positions(step)[step.read :])
            while some := [
                Outcome(position, "", Status.FAILED, code, detail) for position in islice(remaining, _LISTED)
            ]:
                if await self._ledger.imports.add_records(step, [], some, self._settings.lease_s) is None:
                    await self._give_back(step)
                    return
                step.read += len(some)

    async def _in_thread(self, call: Callable[[], T], step: Step, stop: threading.Event) -> T:
        """Run a call that reads. It is told to stop once nobody wants the step any more: within one long line there is
        no other end."""
        reading = asyncio.get_running_loop().run_in_executor(self._threads, call)
        began, slow = time.monotonic(), False
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=_LISTEN_S)
                if not reading.done() and not await self._is_wanted(step):
                    stop.set()
                if not slow and time.monotonic() - began > _SLOW_READ_S and len(self._slow_jobs) < _SPARE_READERS:
                    slow = True
                    self._stand_in(step.job_id, reading.done)
        finally:
            if slow:
                self._slow_jobs.remove(step.job_id)
        return reading.result()

    def _stand_in(self, job_id: str, stopped: Callable[[], bool]) -> None:
        """Start a reader for other jobs, which ends after its step once the slow read has ended."""
        self._slow_jobs.append(job_id)
        if self._group is not None:
            self._group.create_task(self._loop(spare=True, stopped=stopped), name="import-spare")

    async def _is_wanted(self, step: Step) -> bool:
        try:
            job = await self._ledger.jobs.find(step.job_id)
        except NotFound:
            return False
        except DependencyUnavailable:
            return True
        return not job.cancelling


def _some(units: Iterator[Unit]) -> tuple[list[Unit], RetrievalError | None]:
    """Return a few units, those that are found within a second, because finding one may take reading 64 MiB. Return
    also the error that ended the search, if any."""
    batch: list[Unit] = []
    until = time.monotonic() + _PLAN_S
    try:
        for unit in units:
            batch.append(unit)
            if len(batch) == _UNITS or time.monotonic() > until:
                break
    except RetrievalError as error:
        return batch, error
    return batch, None


def _refused(record: Item, code: str, detail: str) -> Item:
    position, item = record
    return position, Rejected(position, item.id, code, detail)


def _positions(step: Step) -> Sequence[int]:
    first = (step.unit or {})["first"]
    return range(first, first + step.size) if step.only is None else step.only


def _batch(items: Iterator[Item], documents: int) -> Iterator[Item]:
    size_bytes = 0
    for item in islice(items, documents):
        yield item
        record = item[1]
        if isinstance(record, Incoming):
            size_bytes += len(record.image or b"") + sum(map(len, record.more_images))
        if size_bytes >= _RECORDS_BYTES:
            return
