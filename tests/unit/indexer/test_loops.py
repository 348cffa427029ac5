"""Polling, wake-ups and heartbeats."""

import asyncio
import random

import pytest

from indexer.loops import WakeUps, heartbeat, poll_forever, watched_task
from model.errors import DependencyUnavailable


class Middle(random.Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_a_wake_up_during_a_step_is_not_missed() -> None:
    wakeups, steps = WakeUps(), 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps < 3:
            wakeups.work_arrived()

    task = watched_task(poll_forever(step, 60, failure="failed", wakeups=wakeups), "polling")
    async with asyncio.timeout(5):
        while steps < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert steps == 3
    wakeups.work_arrived()
    await asyncio.sleep(0.01)
    assert steps == 4
    task.cancel()


async def test_a_step_says_when_it_is_next_and_never_later_than_the_period() -> None:
    pauses = [0.0, 5_000.0, None]
    called: list[float] = []

    async def step() -> float | None:
        called.append(asyncio.get_running_loop().time())
        return pauses[len(called) - 1]

    await poll_forever(step, 0.05, failure="failed", rng=Middle(), stopped=lambda: len(called) == 3)
    first, second = called[1] - called[0], called[2] - called[1]
    assert first < 0.04 <= second < 5


async def test_an_error_is_logged_and_the_loop_goes_on() -> None:
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            raise DependencyUnavailable("unavailable")

    await poll_forever(step, 0.01, failure="failed", stopped=lambda: steps == 2)
    assert steps == 2


async def test_what_nobody_foresaw_ends_the_task_visibly() -> None:
    async def step() -> None:
        raise RuntimeError

    task = watched_task(poll_forever(step, 0.01, failure="failed"), "polling")
    with pytest.raises(RuntimeError):
        await task


async def test_a_heartbeat_survives_an_outage_and_ends_with_its_block() -> None:
    beats = 0

    async def renew() -> None:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise DependencyUnavailable("unavailable")

    async with heartbeat(renew, 0.005):
        async with asyncio.timeout(5):
            while beats < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    beaten = beats
    await asyncio.sleep(0.03)
    assert beats == beaten
