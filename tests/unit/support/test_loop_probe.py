"""What the probe of an event loop counts, and what it does not."""

import asyncio
import hashlib
import threading
import time

from loop_probe import LoopProbe


async def test_work_on_the_loop_counts() -> None:
    probe = await started()
    deadline = time.process_time() + 0.3
    while time.process_time() < deadline:
        pass
    await asyncio.sleep(0.01)
    assert probe.longest_s >= 0.25


async def test_a_loop_that_only_waits_is_not_held_up() -> None:
    """As on a machine that runs something else meanwhile."""
    probe = await started()
    time.sleep(0.3)  # noqa: ASYNC251  the loop is to be held up
    await asyncio.sleep(0.01)
    assert probe.longest_s < 0.2


async def test_work_without_the_lock_does_not_count() -> None:
    probe = await started()
    thread = threading.Thread(target=lambda: hashlib.pbkdf2_hmac("sha256", b"a", b"b", 400_000))
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110  a thread sets no event
        await asyncio.sleep(0.005)
    assert probe.longest_s < 0.2


async def started() -> LoopProbe:
    probe = LoopProbe()
    probe.start()
    await asyncio.sleep(0.01)
    probe.reset()
    return probe
