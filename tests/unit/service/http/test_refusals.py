"""A refusal around the layers of the application: only of plain and whole requests, and with the same words."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.http import refusals
from service.http.middleware.limits import Places, RequestKind
from service.http.refusals import Refusals
from service.http.settings import HttpBounds
from service.observability.metrics import Metrics

PLAIN = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def places() -> Places:
    places = Places(HttpBounds(max_requests_in_flight=1))
    places.taken[RequestKind.PLAIN] = 1
    return places


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN,
        PLAIN.replace(b"/encode", b"/search"),
        PLAIN.replace(b"/encode", b"/search/batch"),
        PLAIN.replace(b"Host", b"Connection: Keep-Alive\r\nHost"),
        PLAIN.replace(b"Length: 2", b"Length:  2 "),
    ],
)
async def test_plain_requests_are_refused_while_all_places_are_taken(
    request_: bytes, places: Places, metrics: Metrics
) -> None:
    answer = Refusals(places, metrics).answer(request_, [])
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    places.taken[RequestKind.PLAIN] = 0
    assert Refusals(places, metrics).answer(request_, []) is None


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN[:-1],
        PLAIN + b"G",
        PLAIN * 2,
        PLAIN.replace(b"POST", b"GET"),
        PLAIN.replace(b"/encode", b"/encode?model=a"),
        PLAIN.replace(b"/encode", b"/v1/embeddings"),
        PLAIN.replace(b"/encode", b"/collections/a/documents"),
        PLAIN.replace(b"1.1", b"1.0"),
        PLAIN.replace(b"Host: x\r\n", b""),
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nHost: y"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nContent-Length: 2"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nTransfer-Encoding : chunked"),
        PLAIN.replace(b"Host: x", b"Host: x\r\n folded: y"),
        PLAIN.replace(b"Host: x", b"Host: x\0"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nConnection: close"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nUpgrade: h2c"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nOrigin: http://x"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nTraceparent: 00-1"),
        PLAIN.replace(b"Host: x", b"Host: x\r\nContent-Encoding: gzip"),
        PLAIN.replace(b"Length: 2", b"Length: +2"),
        PLAIN.replace(b"Length: 2", b"Length: 2, 2"),
        # Python reads no number of so many digits.
        PLAIN.replace(b"Length: 2", b"Length: " + b"2" * 5_000),
        PLAIN.replace(b"Content-Length: 2\r\n", b""),
    ],
)
async def test_everything_else_is_left_to_the_application(request_: bytes, places: Places, metrics: Metrics) -> None:
    assert Refusals(places, metrics).answer(request_, []) is None


async def test_refusals_are_counted_and_logged_once_a_second(
    places: Places, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_LOG_EVERY_S", 0.01)
    refuses = Refusals(places, metrics)
    with capture_logs() as logs:
        for _ in range(3):
            refuses.answer(PLAIN, [])
        assert logs == []
        await asyncio.sleep(0.05)
        refuses.answer(PLAIN, [])
        await asyncio.sleep(0.05)
    assert [line["count"] for line in logs if line["event"] == "requests refused"] == [3, 1]
    labels = {"route": "/encode", "method": "POST", "status": "429"}
    assert metrics.registry.get_sample_value("ret2_requests_total", labels) == 4
