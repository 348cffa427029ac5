"""Waiting for a job: woken by a worker of this process, and looking at the ledger now and then for those of others.

Looking is a read by primary key. PostgreSQL's LISTEN would answer a little sooner, for a connection more per process
that must be watched and reopened, and that no transaction pooler passes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator

from indexer.domain.jobs import Job
from indexer.ledger.ledger import Ledger


class Progress:
    """Belongs to one event loop. Any number may wait; one that is cancelled leaves nothing behind."""

    def __init__(self, ledger: Ledger, poll_s: float) -> None:
        self._ledger, self._poll_s = ledger, poll_s
        self._changed = asyncio.Event()  # of what happens from now on; whoever waits took it before it looked

    def notify(self) -> None:
        """Wake those who wait, because a worker of this process has made progress."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, job_id: str, timeout_s: float) -> Job:
        """Return the job when it is finished, or as it is after `timeout_s`. Raises `NotFound`."""
        deadline = time.monotonic() + timeout_s
        while True:
            changed = self._changed
            job = await self._ledger.jobs.find(job_id)
            left_s = deadline - time.monotonic()
            if job.state.finished or left_s <= 0:
                return job
            await self._until(changed, left_s)

    async def follow(self, job_id: str, every_s: float) -> AsyncGenerator[Job, None]:
        """Yield the job now and after each change, at most once in `every_s`, the last time when it has finished.

        Raises `NotFound`.
        """
        seen = None
        while seen is None or not seen.state.finished:
            changed = self._changed
            job = await self._ledger.jobs.find(job_id)
            if job == seen:
                await self._until(changed, self._poll_s)
                continue
            seen = job
            yield job
            if not job.state.finished:
                await asyncio.sleep(every_s)

    async def _until(self, changed: asyncio.Event, limit_s: float) -> None:
        """Wait until something has happened or a poll is due. Polls are spread, so that many waiting calls do not poll
        at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(limit_s, self._poll_s * random.uniform(0.5, 1.0))):
                await changed.wait()
