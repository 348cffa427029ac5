from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import StoreDied, StoreTimedOut
from indexer.store.edge.calls import TOGETHER, Calls, Request
from indexer.store.edge.client import _Child
from indexer.store.edge.settings import EdgeSettings
from model.errors import NotFound


class Child:
    """Answers a call with its arguments, each after a step; an error among them is the answer."""

    def __init__(self) -> None:
        self.messages: list[list[str]] = []
        self.began = threading.Event()
        self.steps = threading.Semaphore(0)

    def ask(self, requests: Sequence[Request]) -> Iterator[Any]:
        self.messages.append([method for method, _ in requests])
        self.began.set()
        for _, arguments in requests:
            assert self.steps.acquire(timeout=5)
            yield arguments[0]

    def allow(self, steps: int) -> None:
        self.steps.release(steps)


def made(calls: Calls, method: str, *arguments: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(calls.call(method, arguments))


async def test_searches_that_wait_go_together_and_are_answered_one_by_one() -> None:
    child = Child()
    calls = Calls(child.ask)
    first = made(calls, "search", 0)
    await asyncio.to_thread(child.began.wait, 5)
    waiting = [made(calls, "search", number) for number in range(1, 6)]
    await asyncio.sleep(0)
    child.allow(2)
    assert await first == 0
    assert await waiting[0] == 1
    assert not waiting[1].done()
    child.allow(4)
    assert await asyncio.gather(*waiting) == [1, 2, 3, 4, 5]
    assert child.messages == [["search"], ["search"] * 5]
    await calls.close(lambda: None)


async def test_calls_keep_their_order_and_a_message_is_bounded() -> None:
    child = Child()
    calls = Calls(child.ask)
    first = made(calls, "ping", 0)
    await asyncio.to_thread(child.began.wait, 5)
    methods = ["search", "rank", "upsert", "upsert", "hits", *["search"] * TOGETHER]
    tasks = [made(calls, method, number) for number, method in enumerate(methods)]
    await asyncio.sleep(0)
    child.allow(1_000)
    assert await asyncio.gather(*tasks) == list(range(len(methods)))
    await first
    assert child.messages == [
        ["ping"],
        ["search", "rank"],
        ["upsert"],
        ["upsert"],
        ["hits", *["search"] * (TOGETHER - 1)],
        ["search"],
    ]
    await calls.close(lambda: None)


async def test_behind_a_write_in_hand_a_search_passes_other_writes_and_nothing_else() -> None:
    child = Child()
    calls = Calls(child.ask)
    first = made(calls, "write", 0)
    await asyncio.to_thread(child.began.wait, 5)
    methods = ["write", "search", "search", "write", "delete", "search", "search"]
    tasks = [made(calls, method, number) for number, method in enumerate(methods)]
    await asyncio.sleep(0)
    child.allow(1_000)
    assert await asyncio.gather(first, *tasks) == [0, *range(len(methods))]
    assert child.messages == [
        ["write"],
        ["search", "search"],
        ["write"],
        ["write"],
        ["delete"],
        ["search", "search"],
    ]
    await calls.close(lambda: None)


async def test_a_call_cancelled_while_it_waits_is_not_made() -> None:
    child = Child()
    calls = Calls(child.ask)
    first = made(calls, "search", 0)
    await asyncio.to_thread(child.began.wait, 5)
    gone, last = made(calls, "search", 1), made(calls, "rank", 2)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    child.allow(3)
    assert [await first, await last] == [0, 2]
    assert child.messages == [["search"], ["rank"]]
    await calls.close(lambda: None)


async def test_an_error_is_the_answer_of_its_call_alone() -> None:
    child = Child()
    child.allow(3)
    calls = Calls(child.ask)
    pending = (calls.call("search", (answer,)) for answer in (1, NotFound("gone"), 3))
    first, second, third = await asyncio.gather(*pending, return_exceptions=True)
    assert (first, third) == (1, 3)
    assert isinstance(second, NotFound)
    await calls.close(lambda: None)


async def test_what_ends_a_message_is_raised_by_the_calls_that_have_no_answer() -> None:
    def ask(requests: Sequence[Request]) -> Iterator[Any]:
        yield "answered"
        raise NotFound("the process cannot start")

    calls, turn = Calls(ask), threading.Event()
    calls._thread.submit(turn.wait)
    tasks = [made(calls, "search"), made(calls, "search")]
    await asyncio.sleep(0)
    turn.set()
    answered, refused = await asyncio.gather(*tasks, return_exceptions=True)
    assert answered == "answered"
    assert isinstance(refused, NotFound)
    await calls.close(lambda: None)


@pytest.fixture
def child_of(tmp_path: Path) -> Callable[[Callable[[str], Any]], _Child]:
    """A child whose calls are answered by a function of their method's name."""

    def make(answer: Callable[[str], Any]) -> _Child:
        child = _Child(tmp_path, 1.0, 10, 10, 1.0, EdgeSettings())

        def answers(requests: Sequence[Request]) -> Iterator[Any]:
            for method, _ in requests:
                yield answer(method)

        child._answers = answers  # type: ignore[method-assign]
        return child

    return make


def test_the_call_that_kills_the_child_twice_is_to_blame_alone(
    child_of: Callable[[Callable[[str], Any]], _Child],
) -> None:
    asked: list[str] = []

    def answer(method: str) -> str:
        asked.append(method)
        if method == "deadly":
            raise EOFError
        return method

    child = child_of(answer)
    first, second, third = child.ask([("search", ()), ("deadly", ()), ("rank", ())])
    assert (first, third) == ("search", "rank")
    assert isinstance(second, StoreDied)
    assert asked == ["search", "deadly", "deadly", "rank"]


def test_a_call_over_its_time_is_not_repeated_and_those_behind_it_are_answered(
    child_of: Callable[[Callable[[str], Any]], _Child],
) -> None:
    asked: list[str] = []

    def answer(method: str) -> str:
        asked.append(method)
        if method == "slow":
            raise StoreTimedOut("no answer")
        return method

    slow, after = child_of(answer).ask([("slow", ()), ("rank", ())])
    assert isinstance(slow, StoreTimedOut)
    assert after == "rank"
    assert asked == ["slow", "rank"]
