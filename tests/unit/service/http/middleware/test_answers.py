"""The bytes of all answers together: large ones that are not read yet leave no room, small ones always have it."""

import asyncio
from typing import Any

import pytest

from model.errors import Overloaded
from service.http.middleware import answers
from service.http.middleware.answers import AnswerLimits

MIB = 2**20


class Caller:
    """One call whose caller reads nothing until `reads` is set."""

    def __init__(self, limits: AnswerLimits, path: str = "/search") -> None:
        self.sizes: list[int] = []
        self.body = b""
        self.status = 0
        self.reads = asyncio.Event()
        scope = {"type": "http", "path": path, "method": "GET", "headers": [], "state": {"request_id": "r"}}
        self.task = asyncio.create_task(limits(scope, None, self.send))  # type: ignore[arg-type]

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.sizes.append(len(message["body"]))
        self.body += message["body"]
        if message.get("more_body"):
            await self.reads.wait()


def answering(body: bytes) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_what_is_not_read_counts_until_it_is() -> None:
    body = bytes(range(256)) * (3 * MIB // 256)
    limits = AnswerLimits(answering(body), max_answers_bytes=5 * MIB)
    slow = Caller(limits)
    await asyncio.sleep(0)
    refused = Caller(limits)
    await refused.task
    assert (slow.status, refused.status) == (200, 429)
    assert b'"code":"overloaded"' in refused.body
    assert str(3 * MIB).encode() in refused.body
    slow.reads.set()
    await slow.task
    assert slow.sizes == [MIB, MIB, MIB]
    assert slow.body == body
    again = Caller(limits)
    again.reads.set()
    await again.task
    assert again.status == 200, "nothing is held any more"


async def test_small_answers_and_probes_always_have_room() -> None:
    small = AnswerLimits(answering(b"x" * answers._SMALL_BYTES), max_answers_bytes=1)
    caller = Caller(small)
    await caller.task
    assert (caller.status, caller.sizes) == (200, [answers._SMALL_BYTES])
    probe = Caller(AnswerLimits(answering(b"x" * MIB), max_answers_bytes=1), "/metrics")
    await probe.task
    assert probe.status == 200


async def test_parts_count_as_they_are_written() -> None:
    """The search that goes over the limit fails, with what others hold still counted."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        share = scope["state"]["answer"]
        for size in (MIB, 2 * MIB, MIB):
            share.grow_to(size)
        with pytest.raises(Overloaded):
            share.grow_to(4 * MIB)
        await answering(b"x" * 2 * MIB)(scope, receive, send)

    limits = AnswerLimits(app, max_answers_bytes=3 * MIB)
    caller = Caller(limits)
    caller.reads.set()
    await caller.task
    assert caller.status == 200, "its own bytes are not counted twice"


async def test_an_application_that_raises_holds_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["answer"].grow_to(3 * MIB)
        raise ValueError("broken")

    limits = AnswerLimits(app, max_answers_bytes=3 * MIB)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            await Caller(limits).task
