"""The calls of one store to its child process: one after another, in the order in which they were made.

Searches that wait behind one another go to the child in one message. It answers one by one, so the first waits for none
of the others, and between two searches the child waits for nobody.

A load makes its next write before the last one is answered, so that the child need not wait for it. Behind a write in
hand the searches go first, so no search waits for two.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

# Searches of one message: what other calls wait for besides, some 20 ms where there is a graph.
TOGETHER = 32
_SEARCHES = frozenset({"search", "rank", "hits", "best_parts"})
_WRITE = "write"

# A method and its arguments.
Request = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Call:
    request: Request
    answer: asyncio.Future[Any]

    @property
    def searches(self) -> bool:
        return self.request[0] in _SEARCHES

    def settle(self, answer: Any) -> None:
        """Give the caller its answer, or the error that is its answer, from another thread."""
        # The loop of a caller who has gone may be closed.
        with contextlib.suppress(RuntimeError):
            self.answer.get_loop().call_soon_threadsafe(self._settle, answer)

    def _settle(self, answer: Any) -> None:
        if self.answer.done():
            return
        if isinstance(answer, BaseException):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Calls:
    """Whoever made it closes it. `ask` runs in a thread of its own: it yields an answer to each request, which may be a
    `RetrievalError`."""

    def __init__(self, ask: Callable[[Sequence[Request]], Iterator[Any]]) -> None:
        self._ask = ask
        self._waiting: deque[Call] = deque()
        # The last call was a write.
        self._written = False
        # One thread for the life of the store: the kernel ends the child with the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="edge")

    async def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Return the answer to one call, or raise it. A call that is cancelled while it waits is not made."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(Call((method, arguments), answer))
        # As many turns as calls; one that finds its call taken by an earlier turn does nothing.
        self._thread.submit(self._take_turn)
        return await answer

    async def close(self, stop: Callable[[], None]) -> None:
        """Run `stop` in the thread when all calls are answered, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, stop)
        self._thread.shutdown(wait=False)

    def _take_turn(self) -> None:
        calls = self._next_calls()
        settled = 0
        try:
            for answer in self._ask([call.request for call in calls]) if calls else ():
                calls[settled].settle(answer)
                settled += 1
        except BaseException as error:
            for call in calls[settled:]:
                call.settle(error)
            if not isinstance(error, Exception):
                raise

    def _next_calls(self) -> list[Call]:
        """Take the call whose turn it is, and with a search those that wait right behind it."""
        calls: list[Call] = []
        place = self._turn()
        while len(self._waiting) > place and len(calls) < TOGETHER:
            if calls and not (calls[0].searches and self._waiting[place].searches):
                break
            call = self._waiting[place]
            del self._waiting[place]
            if not call.answer.done():
                calls.append(call)
        if calls:
            self._written = calls[0].request[0] == _WRITE
        return calls

    def _turn(self) -> int:
        """Return the place of the call whose turn it is: the first, or after a write a search behind other writes."""
        if self._written:
            # A copy, for callers in other threads add to it.
            for place, call in enumerate(list(self._waiting)):
                if call.searches:
                    return place
                if call.request[0] != _WRITE:
                    break
        return 0
