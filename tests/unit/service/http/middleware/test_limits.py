"""Bounds before anything reads a request: declared and streamed bodies, requests in flight, open streams."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from service.http import problems
from service.http.middleware.limits import RequestLimits
from service.http.middleware.paths import SentPaths
from service.http.middleware.request_log import RequestLog
from service.http.settings import HttpBounds
from service.observability.metrics import Metrics

DOCUMENTS = "/collections/a/documents"


class Gate:
    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Event()


def make(gate: Gate | None = None, max_in_flight: int = 1, **limits: int) -> tuple[httpx.AsyncClient, Metrics]:
    metrics = Metrics(CollectorRegistry())
    sizes = {"max_body_bytes": 10, "max_stream_bytes": 20, "max_bodies_bytes": 100} | limits
    bounds = HttpBounds(
        max_requests_in_flight=max_in_flight,
        max_event_streams=max_in_flight,
        max_document_streams=max_in_flight,
        **sizes,
    )
    app = FastAPI(
        middleware=[
            Middleware(RequestLog, metrics=metrics),
            Middleware(SentPaths),
            Middleware(RequestLimits, bounds=bounds),
        ]
    )
    problems.install(app)

    @app.post("/size")
    async def size(request: Request) -> int:
        body = await request.body()
        if gate is not None:
            gate.entered.set()
            await gate.open.wait()
        return len(body)

    @app.post("/collections/a/documents")
    async def documents(request: Request) -> int:
        return await size(request)

    @app.post("/json")
    async def echo(body: list[int]) -> list[int]:
        return body

    @app.get("/jobs/{job}/events")
    async def events(job: str) -> str:
        assert gate is not None
        gate.entered.set()
        await gate.open.wait()
        return job

    @app.get("/livez")
    async def livez() -> str:
        return "ok"

    @app.get("/things/{thing}")
    async def thing(thing: str) -> str:
        return thing

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test"), metrics


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"12345"


@pytest.mark.parametrize("path", ["/size", "/json"])
@pytest.mark.parametrize("content", [b"[1,2,3,4,5,6]", pieces(3)])
async def test_a_body_over_the_limit(path: str, content: Any) -> None:
    client, _ = make()
    headers = {"content-type": "application/json"}
    response = await client.post(
        path, content=pieces(3) if not isinstance(content, bytes) else content, headers=headers
    )
    assert response.status_code == 413
    assert response.json()["code"] == "too_large"
    assert response.json()["errors"][0]["limit"] == 10


async def test_streams_have_their_own_limit() -> None:
    client, _ = make()
    headers = {"content-type": "application/x-ndjson"}
    assert (await client.post(DOCUMENTS, content=pieces(4), headers=headers)).json() == 20
    assert (await client.post(DOCUMENTS, content=pieces(5), headers=headers)).status_code == 413
    assert (await client.post("/size", content=pieces(4), headers=headers)).status_code == 413, "no other call streams"


async def test_of_a_stream_the_unfinished_line_is_held() -> None:
    gate = Gate()
    client, _ = make(gate, max_in_flight=9, max_bodies_bytes=8, max_stream_bytes=100)
    headers = {"content-type": "application/x-ndjson"}
    lines = asyncio.create_task(client.post(DOCUMENTS, content=b"1234567\n1234567\n1234567\n", headers=headers))
    await gate.entered.wait()
    assert (await client.post(DOCUMENTS, content=pieces(3), headers=headers)).status_code == 429
    gate.open.set()
    assert (await lines).status_code == 200


async def test_a_call_without_images_has_a_small_body() -> None:
    client, _ = make(max_body_bytes=20, max_json_bytes=5)
    assert (await client.post("/size", content=b"123456")).status_code == 413
    assert (await client.post(DOCUMENTS, content=b"123456")).json() == 6


@pytest.mark.parametrize("declared", [True, False])
async def test_bodies_held_at_once(declared: bool) -> None:
    gate = Gate()
    client, _ = make(gate, max_in_flight=9, max_bodies_bytes=12)
    first = asyncio.create_task(client.post("/size", content=b"12345"))
    await gate.entered.wait()
    refused = await client.post("/json", content=b"12345678" if declared else pieces(2))
    assert refused.status_code == 429, "the first is being answered"
    assert "over the limit of 12" in refused.json()["detail"]
    assert refused.headers["retry-after"] == "1"
    stream = {"content-type": "application/x-ndjson"}
    lines = b"123\n" * 5
    streamed = asyncio.create_task(client.post(DOCUMENTS, content=lines, headers=stream))
    gate.open.set()
    assert (await streamed).json() == 20
    assert (await first).json() == 5
    assert (await client.post("/size", content=pieces(2))).json() == 10, "nothing is held any more"


async def test_requests_in_flight() -> None:
    gate = Gate()
    client, _ = make(gate)
    first = asyncio.create_task(client.post("/size", content=b"1"))
    await gate.entered.wait()
    refused = await client.post("/size", content=b"1")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert (await client.get("/livez")).status_code == 200
    gate.open.set()
    assert (await first).json() == 1
    assert (await client.post("/size", content=b"1")).json() == 1


async def test_streams_take_no_place_from_requests() -> None:
    """Nor from streams of the other kind, whose own number is bounded."""
    gate = Gate()
    client, _ = make(gate)
    lines = {"content": b"1", "headers": {"content-type": "application/x-ndjson"}}
    streams = [asyncio.create_task(client.get("/jobs/a/events"))]
    await gate.entered.wait()
    gate.entered.clear()
    streams.append(asyncio.create_task(client.post(DOCUMENTS, **lines)))
    await gate.entered.wait()
    for refused, kind in (
        (await client.get("/jobs/b/events"), "event"),
        (await client.post(DOCUMENTS, **lines), "document"),
    ):
        assert refused.status_code == 429
        assert f"1 {kind} streams" in refused.json()["detail"]
    plain = asyncio.create_task(client.post("/size", content=b"1"))
    await asyncio.sleep(0)
    gate.open.set()
    assert (await plain).json() == 1
    assert [(await stream).status_code for stream in streams] == [200, 200]
    assert (await client.get("/jobs/b/events")).status_code == 200, "nothing is open any more"


async def test_paths_are_matched_as_they_were_sent() -> None:
    client, metrics = make()
    for sent, seen in (("a", "a"), ("a%2Fb", "a%2Fb"), ("a%2fb%20c", "a%2fb%20c"), ("%252F", "%252F"), ("é", "%C3%A9")):
        assert (await client.get(f"/things/{sent}")).json() == seen
    assert (await client.get("/things/a/b")).status_code == 404
    value = metrics.registry.get_sample_value
    assert value("ret2_requests_total", {"route": "/things/{thing}", "method": "GET", "status": "200"}) == 5
    assert value("ret2_requests_total", {"route": "other", "method": "GET", "status": "404"}) == 1
