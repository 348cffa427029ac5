"""Background loops, written once: wake-ups, polling, heartbeats, and a task whose death is seen."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from model.errors import DependencyUnavailable, RetrievalError

log = structlog.get_logger(__name__)


class WakeUps:
    """Tells the loops of this process that there may be work, so that they need not wait for their next poll.

    Belongs to one event loop. A loop takes `upcoming` before it looks for work: what arrives while it looks is not
    missed.
    """

    def __init__(self) -> None:
        self._upcoming = asyncio.Event()

    @property
    def upcoming(self) -> asyncio.Event:
        """The event that the next arrival sets."""
        return self._upcoming

    def work_arrived(self) -> None:
        """Wake every loop that waits."""
        self._upcoming.set()
        self._upcoming = asyncio.Event()


async def poll_forever(
    step: Callable[[], Awaitable[float | None]],
    every_s: float,
    *,
    failure: str,
    wakeups: WakeUps | None = None,
    rng: random.Random | None = None,
    wait_first: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Call `step` until the task is cancelled or `stopped`, and again at each wake-up.

    `step` returns the seconds until its next call, at most `every_s`, or None for that. `every_s` is jittered: the
    loops of many processes must not all look at once. A `RetrievalError` is logged as `failure`, and the step is tried
    again after `every_s`.
    """
    rng = rng or random.Random()
    woken = asyncio.Event()
    if wait_first:
        await asyncio.sleep(every_s * rng.uniform(0.5, 1.0))
    while not stopped():
        if wakeups is not None:
            woken = wakeups.upcoming
        pause_s = longest_s = every_s * rng.uniform(0.5, 1.0)
        try:
            requested_s = await step()
            pause_s = longest_s if requested_s is None else min(requested_s, longest_s)
        except RetrievalError as error:
            log.warning(failure, detail=error.detail)
        with contextlib.suppress(TimeoutError):
            # `wait_for` of Python 3.11 may swallow a cancellation.
            async with asyncio.timeout(pause_s):
                await woken.wait()


@asynccontextmanager
async def heartbeat(renew: Callable[[], Awaitable[object]], every_s: float) -> AsyncIterator[None]:
    """Call `renew` every `every_s` while the block runs. When its dependency does not answer, the next beat tries
    again.
    """

    async def beat() -> None:
        while True:
            await asyncio.sleep(every_s)
            with contextlib.suppress(DependencyUnavailable):
                await renew()

    task = watched_task(beat(), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()


def watched_task(work: Awaitable[None], name: str) -> asyncio.Task[None]:
    """Start a background task whose unforeseen end is logged."""
    task = asyncio.ensure_future(work)
    assert isinstance(task, asyncio.Task)
    task.set_name(name)
    task.add_done_callback(_log_death)
    return task


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("background task died", task=task.get_name(), exc_info=error)
