"""What one key may ask for at once and per second; another key feels nothing of it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from request_state import WithState
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.http.middleware.api_keys import ApiKeyGate
from service.http.middleware.quotas import Bucket, KeyQuotas
from service.http.settings import QuotaSettings
from service.keys import Key, KeyFile, KeyScope, line_of

A, B = "0123456789abcdef-a", "0123456789abcdef-b"


class Service:
    def __init__(self, folder: Path, settings: QuotaSettings, *, keys: bool = True) -> None:
        self.now = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self.entered = 0
        (folder / "keys").write_text("\n".join(line_of(key, Key(key[-1], frozenset(KeyScope))) for key in (A, B)))
        layers = [
            Middleware(WithState),
            Middleware(ApiKeyGate, keys=KeyFile(folder / "keys") if keys else None),
            Middleware(KeyQuotas, settings=settings, clock=lambda: self.now),
        ]
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST"])], middleware=layers)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def _answer(self, request: Request) -> Response:
        self.entered += 1
        await self.open.wait()
        if request.headers.get("fail"):
            raise RuntimeError
        return PlainTextResponse("ok")

    async def ask(self, key: str = A, path: str = "/search", **headers: str) -> httpx.Response:
        method = "POST" if path == "/search" else "GET"
        return await self._client.request(method, path, headers={"x-api-key": key, **headers})


async def test_a_burst_and_then_so_many_a_second(tmp_path: Path) -> None:
    service = Service(tmp_path, QuotaSettings(requests_per_s=2, burst=3))
    assert [(await service.ask()).status_code for _ in range(4)] == [200, 200, 200, 429]
    service.now = 0.5
    assert [(await service.ask()).status_code for _ in range(2)] == [200, 429]


async def test_over_it_the_answer_says_when(tmp_path: Path) -> None:
    service = Service(tmp_path, QuotaSettings(requests_per_s=0.1))
    await service.ask()
    refused = await service.ask()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "10"
    assert refused.json()["code"] == "rate_limited"
    assert "0.1 requests per second" in refused.json()["detail"]
    service.now = 10.0
    assert (await service.ask()).status_code == 200


async def test_another_key_has_its_own(tmp_path: Path) -> None:
    service = Service(tmp_path, QuotaSettings(requests_per_s=1))
    assert [(await service.ask(key)).status_code for key in (A, A, B, B)] == [200, 429, 200, 429]


async def test_requests_at_once(tmp_path: Path, wait_until: Callable[..., Awaitable[None]]) -> None:
    service = Service(tmp_path, QuotaSettings(in_flight=1))
    service.open.clear()
    first = asyncio.create_task(service.ask())
    await wait_until(lambda: service.entered > 0)
    refused = await service.ask()
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    service.open.set()
    assert (await service.ask(B)).status_code == 200
    assert (await first).status_code == 200
    assert (await service.ask()).status_code == 200


async def test_streams_of_a_key_are_counted_by_themselves(
    tmp_path: Path, wait_until: Callable[..., Awaitable[None]]
) -> None:
    service = Service(tmp_path, QuotaSettings(in_flight=1, event_streams=1, document_streams=1))
    service.open.clear()
    stream = asyncio.create_task(service.ask(path="/jobs/a/events"))
    await wait_until(lambda: service.entered == 1)
    plain = asyncio.create_task(service.ask())
    await wait_until(lambda: service.entered == 2)
    refused = await service.ask(path="/jobs/b/events")
    assert refused.status_code == 429
    assert "1 event streams of key 'a'" in refused.json()["detail"]
    service.open.set()
    assert (await service.ask(B, "/jobs/b/events")).status_code == 200
    assert [(await task).status_code for task in (stream, plain)] == [200, 200]


async def test_what_raises_gives_its_place_back(tmp_path: Path) -> None:
    service = Service(tmp_path, QuotaSettings(in_flight=1))
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await service.ask(fail="1")
    assert (await service.ask()).status_code == 200


@pytest.mark.parametrize("keys", [True, False])
async def test_probes_are_not_counted(tmp_path: Path, keys: bool) -> None:
    service = Service(tmp_path, QuotaSettings(requests_per_s=1, in_flight=1), keys=keys)
    for _ in range(3):
        assert (await service.ask(path="/livez")).status_code == 200
    assert [(await service.ask()).status_code for _ in range(2)] == [200, 429]


async def test_without_limits_nothing_is_refused(tmp_path: Path) -> None:
    service = Service(tmp_path, QuotaSettings())
    assert {(await service.ask()).status_code for _ in range(50)} == {200}


@given(
    rate=st.floats(0.1, 1000),
    burst=st.none() | st.integers(1, 50),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate(rate: float, burst: int | None, gaps: list[float]) -> None:
    settings = QuotaSettings(requests_per_s=rate, burst=burst)
    bucket, now, taken = Bucket(settings, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait_s = bucket.take(now)
        taken += wait_s == 0
        assert taken <= settings.capacity + now * rate + 1e-6
        if wait_s:
            now += wait_s + 1e-6
            assert bucket.take(now) == 0, "after the time it said there is one"
            taken += 1
