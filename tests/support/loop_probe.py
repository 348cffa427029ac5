"""How long an event loop answered nobody, told apart from the time in which the machine ran something else."""

from __future__ import annotations

import asyncio
import time

_TURN_S = 0.002


class LoopProbe:
    """The longest time between two turns of an event loop in which this process computed.

    What holds the loop up, or Python's lock in another thread, costs both time and CPU time of this process; a busy
    machine costs time alone. The lesser of the two is what counts.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call it inside the loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def reset(self) -> None:
        self.longest_s = 0.0

    async def _watch(self) -> None:
        while True:
            clock, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(_TURN_S)
            passed_s, computed_s = time.perf_counter() - clock - _TURN_S, time.process_time() - cpu
            self.longest_s = max(self.longest_s, min(passed_s, computed_s))
