"""The generator's arithmetic and its reading of answers; it meets servers in the bench itself."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import BROKEN, Answered, Connection, Run, _request, arrivals, summary_of_open


def test_arrivals_are_as_many_as_asked_for_and_in_order() -> None:
    moments = arrivals(100, 50)
    assert len(moments) == pytest.approx(5000, rel=0.05)
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 50


def test_arrivals_are_independent_of_each_other() -> None:
    """A Poisson process: the gaps' deviation is their mean."""
    moments = arrivals(100, 50)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)


def test_arrivals_are_the_same_again() -> None:
    assert arrivals(10, 5) == arrivals(10, 5)
    assert arrivals(10, 5) != arrivals(10, 5, seed=1)


def test_open_loop_counts_answers_by_when_they_came_and_latencies_by_when_they_were_due() -> None:
    answered = [
        Answered(0.5, 1.0, 200),  # due in the warm-up, answered after it: goodput, but no latency
        Answered(1.5, 0.5, 200),
        Answered(2.0, 0.1, 429),
        Answered(2.9, 5.0, 200),  # answered after the end: a latency, but no goodput
        Answered(3.5, 0.1, 200),
    ]
    run = summary_of_open(answered, warm_up_s=1, seconds=2)
    assert run.rate == 1.0
    assert [one.sent_s for one in run.answered] == [1.5, 2.0, 2.9]
    assert run.failed == 1
    assert run.latency_ms(50) == 500
    assert run.latency_ms(100) == 5000


def test_latencies_of_refusals_do_not_flatter() -> None:
    run = Run(1.0, (Answered(0, 0.001, 429), Answered(0, 0.002, BROKEN), Answered(0, 3, 200)))
    assert run.latency_ms(50) == 3000


def test_where_the_slowest_spent_their_time_adds_up() -> None:
    run = Run(
        1.0,
        (
            Answered(0, 0.100, 200, "decode;dur=10.000, queue;dur=60.000, total;dur=90.000"),
            Answered(0, 0.020, 200, "decode;dur=10.000, queue;dur=0.000, total;dur=15.000"),
            Answered(0, 9.000, 429, ""),
        ),
    )
    assert run.slowest_ms(0.5) == {"decode": 10, "queue": 60, "rest": 30}
    assert sum(run.slowest_ms(1.0).values()) == 60
    assert Run(1.0, ()).slowest_ms(0.1) == {}


def test_a_request_states_its_length() -> None:
    body = json.dumps({"text": "ä"}).encode()
    head, sent = _request("http://127.0.0.1:81/encode", body).split(b"\r\n\r\n")
    assert head.startswith(b"POST /encode HTTP/1.1\r\nHost: 127.0.0.1:81\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert sent == body


@pytest.mark.parametrize(
    ("field", "kept"), [(b"", True), (b"Connection: close\r\n", False), (b"connection: Keep-Alive\r\n", True)]
)
async def test_an_answer_is_read_to_its_end(field: bytes, kept: bool) -> None:
    """In whatever pieces it comes, and one after the other."""
    head = b"HTTP/1.1 429 Too Many\r\nContent-Length: 3\r\nServer-Timing: a;dur=1.5\r\n" + field
    async with answering(head[:30], head[30:] + b"\r\n", b"a", b"bc") as connection:
        for _ in range(2):
            assert await connection.post(b"a request") == (429, "a;dur=1.5", kept)


async def test_an_answer_of_unknown_length_is_an_error() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as connection:
        with pytest.raises(ValueError, match="Content-Length"):
            await connection.post(b"a request")


async def test_a_connection_that_breaks_off_is_an_error() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n", b"") as connection:
        for _ in range(2):
            with pytest.raises(OSError, match="closed"):
                await connection.post(b"a request")


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[Connection]:
    """A connection to a server that answers whatever it gets with these pieces; it hangs up at an empty one."""

    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.002)
            if not pieces[-1]:
                break
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *server.sockets[0].getsockname())
        yield connection
        connection.close()
        await ended.wait()
