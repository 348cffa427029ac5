"""Compressed bodies are read within the bounds on bodies; other codings and character sets are refused."""

import gzip
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
import zstandard
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from service.http import problems
from service.http.middleware.content_encoding import ContentEncoding
from service.http.middleware.limits import RequestLimits
from service.http.middleware.request_log import RequestLog
from service.http.settings import HttpBounds
from service.observability.metrics import Metrics

MIB = 2**20


@pytest.fixture
def client() -> httpx.AsyncClient:
    bounds = HttpBounds(max_body_bytes=MIB, max_json_bytes=MIB, max_stream_bytes=MIB, max_bodies_bytes=4 * MIB)
    app = FastAPI(
        middleware=[
            Middleware(RequestLog, metrics=Metrics(CollectorRegistry())),
            Middleware(ContentEncoding),
            Middleware(RequestLimits, bounds=bounds),
        ]
    )
    problems.install(app)

    @app.post("/echo")
    async def echo(request: Request) -> str:
        return (await request.body()).decode()

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


CODINGS = [
    ("gzip", gzip.compress),
    ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    ("GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstandard.compress),
    ("zstd", lambda data: zstandard.compress(data[:5]) + zstandard.compress(data[5:])),
]


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("step", [1, 7, 10**6])
async def test_a_compressed_body_is_the_body(client: httpx.AsyncClient, coding: str, compress, step: int) -> None:  # type: ignore[no-untyped-def]
    data = b"a red shoe " * 30
    packed = compress(data)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(packed), step):
            yield packed[start : start + step]

    response = await client.post("/echo", content=pieces(), headers={"content-encoding": coding})
    assert response.json() == data.decode()


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
async def test_the_limit_is_on_what_it_expands_to(client: httpx.AsyncClient, coding: str, compress) -> None:  # type: ignore[no-untyped-def]
    response = await client.post("/echo", content=compress(bytes(8 * MIB)), headers={"content-encoding": coding})
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
async def test_broken_data_is_an_error_of_the_caller(client: httpx.AsyncClient, coding: str, compress) -> None:  # type: ignore[no-untyped-def]
    headers = {"content-encoding": coding}
    for body in (b"not compressed at all", compress(b"a red shoe " * 30)[:-3]):
        response = await client.post("/echo", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "invalid_input"), response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "br"},
        {"content-encoding": "gzip, gzip"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": 'application/json;charset="ISO-8859-1"'},
    ],
)
async def test_other_codings_and_character_sets_are_415(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.post("/echo", content=b"x", headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


async def test_utf_8_by_name(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json; charset=UTF-8"}
    assert (await client.post("/echo", content=b"x", headers=headers)).json() == "x"
