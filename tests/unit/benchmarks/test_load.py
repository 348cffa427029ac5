"""The generator's arithmetic and its reading of answers; it meets servers in the bench itself."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from benchmarks.load import BROKEN, Answered, Run, _read_answer, _request, arrivals, summary_of_open


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
    reader = asyncio.StreamReader()
    reader.feed_data(
        b"HTTP/1.1 429 Too Many\r\nContent-Length: 3\r\nServer-Timing: a;dur=1.5\r\n" + field + b"\r\nabcNEXT"
    )
    assert await _read_answer(reader) == (429, "a;dur=1.5", kept)
    assert await reader.readexactly(4) == b"NEXT"


async def test_an_answer_of_unknown_length_is_an_error() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(ValueError, match="Content-Length"):
        await _read_answer(reader)
