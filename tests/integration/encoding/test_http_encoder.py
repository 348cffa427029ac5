"""`HttpEncoder` against the encoder application itself: one contract with the batcher, and what it does about trouble in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from indexer.encoding.encoder import Lane
from indexer.encoding.http_encoder import EncoderClientSettings, HttpEncoder
from indexer.errors import EncoderDied, EncoderTimedOut
from model.errors import (
    DependencyUnavailable,
    EncodeFailed,
    InvalidInput,
    Overloaded,
    RetrievalError,
    TimedOut,
    TooLarge,
)
from model.types import Embedding, Input, Role
from service.encoder.app import EncoderParts, create_encoder_app
from service.encoder.batcher import Batcher
from service.encoder.models import LocalModels
from service.keys import Key, KeyFile, KeyScope, line_of
from service.observability.metrics import Metrics
from service.settings import ServerRole, Settings

PROBLEM = {"content-type": "application/problem+json"}


class Way(httpx.AsyncBaseTransport):
    """To the application, through trouble: `before` may raise or answer in its place; `paths` has what was asked."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)
        self.before: Callable[[httpx.Request], httpx.Response | None] = lambda _request: None
        self.paths: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        return self.before(request) or await self._inner.handle_async_request(request)


class Remote:
    def __init__(self, runtime: Any, keys: Path, **settings: Any) -> None:
        keys.write_text(line_of("k" * 16, Key("api", frozenset(KeyScope))))
        self.settings = Settings(role=ServerRole.ENCODER, **settings)
        self.metrics = Metrics(CollectorRegistry())
        self.batcher = Batcher(runtime, self.settings.queue(2_048), self.metrics)
        self.app = create_encoder_app(
            EncoderParts(self.settings, self.metrics, LocalModels.of(self.batcher), KeyFile(keys))
        )
        self.way = Way(self.app)

    def client(self, **options: Any) -> HttpEncoder:
        options = {"api_key": "k" * 16, "retry_base_s": 0.0, **options}
        return HttpEncoder(EncoderClientSettings("http://encoder", **options), transport=self.way)


@pytest.fixture
async def remote(runtime: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Remote]]:
    running: list[Any] = []

    async def start(**settings: Any) -> Remote:
        one = Remote(runtime, tmp_path / "keys", **settings)
        life = one.app.router.lifespan_context(one.app)
        await life.__aenter__()
        running.append(life)
        return one

    yield start  # type: ignore[misc]
    runtime.gate.set()
    for life in running:
        await life.__aexit__(None, None, None)


async def encode(encoder: Any, *items: Input, lane: Lane = Lane.SEARCH) -> list[Embedding | RetrievalError]:
    results: list[Embedding | RetrievalError] = await encoder.encode(items, role=Role.QUERY, lane=lane)
    return results


async def test_the_same_by_either_path(remote: Any, make_image: Callable[..., bytes]) -> None:
    """Promise 7; and one bad input harms only itself on the way too."""
    there = await remote()
    image = make_image("green", (9, 7))
    items = [
        Input("red square"),
        Input(image=image),
        Input("what is this", image),
        Input(" "),
        Input(image=b"no image"),
    ]
    near, far = await encode(there.batcher, *items), await encode(there.client(), *items)
    for one, other in zip(near[:3], far[:3], strict=True):
        assert isinstance(one, Embedding)
        assert isinstance(other, Embedding)
        assert one.vector.tobytes() == other.vector.tobytes()
        assert (one.fingerprint, one.cost, one.shares) == (other.fingerprint, other.cost, other.shares)
        assert one.shares is not None
        assert other.timing.encode_s > 0
    assert [type(one) for one in near[3:]] == [type(one) for one in far[3:]] == [InvalidInput, InvalidInput]
    assert await there.client().info() == await there.batcher.info()


async def test_the_lane_travels(remote: Any, runtime: Any, wait_until: Any) -> None:
    there = await remote()
    runtime.gate.clear()
    bulk = asyncio.create_task(encode(there.client(), Input("first"), lane=Lane.BULK))
    await runtime.busy_with("first")
    waiting = asyncio.create_task(encode(there.client(), Input("later"), lane=Lane.BULK))
    await wait_until(lambda: there.batcher._queue.held(Lane.BULK) == len("later"))
    assert there.batcher._queue.held(Lane.SEARCH) == 0
    runtime.gate.set()
    await asyncio.gather(bulk, waiting)


async def test_a_long_call_is_cut_to_size(remote: Any, make_image: Callable[..., bytes]) -> None:
    there = await remote()
    image = make_image("red", (40, 40), kind="BMP")
    encoder = there.client(max_call_inputs=3, max_call_bytes=len(image) + 10)
    results = await encode(encoder, *[Input(f"text {number}") for number in range(7)], *[Input(image=image)] * 3)
    assert len(results) == 10
    assert all(isinstance(one, Embedding) for one in results)
    assert there.way.paths.count("/encode") == 5  # 3 and 3 texts, a text with an image, two images each alone
    direct = await encode(there.batcher, *[Input(f"text {number}") for number in range(7)])
    for one, other in zip(results[:7], direct, strict=True):
        assert one.vector.tobytes() == other.vector.tobytes()  # type: ignore[union-attr]


async def test_an_encoder_that_takes_less_at_once(remote: Any) -> None:
    """By its own limits: halves until it fits, and what is too large by itself is its own error."""
    there = await remote(max_inputs_per_call=2, max_body_bytes=4_000)
    results = await encode(there.client(), *[Input(f"text {number}") for number in range(5)], Input("x" * 5_000))
    assert [type(one) for one in results] == [Embedding] * 5 + [TooLarge]


async def test_overload_is_told_with_the_time_to_wait(remote: Any, runtime: Any, wait_until: Any) -> None:
    there = await remote(max_search_queue_cost=10)
    runtime.gate.clear()
    plug = asyncio.create_task(encode(there.batcher, Input("plug")))
    await runtime.busy_with("plug")
    waiting = asyncio.create_task(encode(there.batcher, Input("12345678")))
    await wait_until(lambda: there.batcher._queue.held(Lane.SEARCH) == 8)
    with pytest.raises(Overloaded, match="search queue") as refused:
        await encode(there.client(), Input("12345"))
    assert refused.value.retry_after_s >= 1
    assert there.way.paths.count("/encode") == 1  # at once, not three times
    runtime.gate.set()
    await asyncio.gather(plug, waiting)


async def test_what_did_not_arrive_is_sent_again(remote: Any) -> None:
    there = await remote()
    trouble: list[Any] = [
        httpx.ConnectError("refused"),
        httpx.Response(503, json={"code": "dependency_unavailable", "detail": "draining"}),
    ]

    def before(_request: httpx.Request) -> httpx.Response | None:
        if not trouble:
            return None
        what = trouble.pop()
        if isinstance(what, Exception):
            raise what
        return what  # type: ignore[no-any-return]

    there.way.before = before
    (result,) = await encode(there.client(attempts=3), Input("red"))
    assert isinstance(result, Embedding)


@pytest.mark.parametrize(
    ("trouble", "says", "calls"),
    [
        (httpx.ConnectError("refused"), "encoder http://encoder: ConnectError", 3),
        (httpx.ReadTimeout("slow"), "encoder http://encoder: ReadTimeout", 1),
        (httpx.ReadError("broke"), "encoder http://encoder: ReadError", 2),
        (httpx.Response(502, text="<html>bad gateway</html>"), "answered 502: <html>", 2),
        (httpx.Response(503, text="upstream connect error or disconnect"), "answered 503: upstream", 2),
        (httpx.Response(503, headers=PROBLEM, json={"detail": "draining"}), "answered 503: draining", 3),
        (httpx.Response(200, text="hello"), "not msgpack", 1),
        (httpx.Response(200, content=b"\x82\xabfingerprint\xa1f\xa7results\x90"), "0 results for 1 inputs", 1),
    ],
)
async def test_what_keeps_failing_is_unavailable(remote: Any, trouble: Any, says: str, calls: int) -> None:
    there = await remote()

    def before(_request: httpx.Request) -> httpx.Response:
        if isinstance(trouble, Exception):
            raise trouble
        return trouble  # type: ignore[no-any-return]

    there.way.before = before
    with pytest.raises(DependencyUnavailable, match=says) as raised:
        await encode(there.client(), Input("red"))
    assert len(there.way.paths) == calls
    assert isinstance(raised.value, EncoderDied) == (calls == 2), "else nobody else was at work on it"


@pytest.mark.parametrize("patient", ["client", "encoder"])
async def test_a_time_out_is_not_tried_again(remote: Any, runtime: Any, patient: str) -> None:
    """Whoever of the two loses patience first: the encoder is at work on this very call."""
    there = await remote(request_timeout_s=0.05 if patient == "client" else 30)
    runtime.gate.clear()
    with pytest.raises(EncoderTimedOut, match=r"encoder http://encoder: no answer within 0\.05 s") as raised:
        await encode(there.client(timeout_s=30 if patient == "client" else 0.05), Input("red"))
    assert (raised.value.status, raised.value.code) == (504, "timed_out")
    assert there.way.paths == ["/encode"]


async def test_all_attempts_together_have_the_time_of_one_call(remote: Any) -> None:
    there = await remote()
    there.way.before = lambda _request: httpx.Response(503, headers=PROBLEM, json={"detail": "draining"})
    with pytest.raises(TimedOut):
        await encode(there.client(timeout_s=0.05, attempts=100, retry_base_s=0.01), Input("red"))
    assert 1 <= len(there.way.paths) < 10


async def test_a_wrong_key_says_so(remote: Any) -> None:
    there = await remote()
    with pytest.raises(DependencyUnavailable, match="answered 401: no valid API key"):
        await encode(there.client(api_key="wrong"), Input("red"))


async def test_with_a_wrong_key_it_is_not_ready(remote: Any) -> None:
    """The encoder's /readyz wants none; all else does, so a process with the wrong one could do nothing."""
    there = await remote()
    with pytest.raises(DependencyUnavailable, match="answered 401: no valid API key"):
        await there.client(api_key="wrong").check(30)


async def test_readiness_is_the_encoder_s(remote: Any, runtime: Any) -> None:
    there = await remote(ready_max_age_s=0.001)
    await there.client().check(30)

    def explode(_texts: list[str]) -> None:
        raise RuntimeError

    runtime.on_forward = explode
    with pytest.raises(DependencyUnavailable, match="encoder: the model raised RuntimeError"):
        await there.client(attempts=1).check(30)


async def test_who_made_an_embedding_is_known_at_once(remote: Any, runtime: Any) -> None:
    """What `info` said may be old; the embedding itself is not (promise 9)."""
    there = await remote()
    encoder = there.client(info_max_age_s=1e9)
    before = await encoder.info()
    runtime.info = type(before)("fake", "another", before.dimensions, before.max_text_tokens, before.image_size_px)
    (result,) = await encode(encoder, Input("red"))
    assert isinstance(result, Embedding)
    assert (await encoder.info()).fingerprint == before.fingerprint
    assert result.fingerprint == "another"


async def test_info_outlives_a_pause_of_the_encoder(remote: Any) -> None:
    there = await remote()
    encoder = there.client(info_max_age_s=0.0, attempts=1)
    known = await encoder.info()

    def down(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    there.way.before = down
    assert await encoder.info() == known
    with pytest.raises(DependencyUnavailable):
        await there.client(attempts=1).info()


async def test_a_failure_of_one_input_arrives_as_such(remote: Any, runtime: Any) -> None:
    there = await remote()
    runtime.on_forward = lambda texts: np.full((len(texts), 64), np.nan, np.float32) if "bad" in texts else None
    bad, good = await encode(there.client(), Input("bad")), await encode(there.client(), Input("good"))
    assert isinstance(bad[0], EncodeFailed)
    assert isinstance(good[0], Embedding)


async def test_the_encoder_fetches_nothing(remote: Any) -> None:
    there = await remote()
    async with httpx.AsyncClient(transport=there.way, base_url="http://encoder") as http:
        response = await http.post(
            "/encode",
            json={"role": "query", "inputs": [{"image": {"url": "http://example.org/x.png"}}, {"text": "red"}]},
            headers={"x-api-key": "k" * 16},
        )
    refused, good = response.json()["results"]
    assert "fetches no URLs" in refused["error"]["detail"]
    assert len(good["embedding"]) == 64


async def test_a_msgpack_body_that_is_none(remote: Any) -> None:
    there = await remote()
    headers = {"x-api-key": "k" * 16, "content-type": "application/msgpack"}
    async with httpx.AsyncClient(transport=there.way, base_url="http://encoder", headers=headers) as http:
        response = await http.post("/encode", content=b"\xc1")
        assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
        response = await http.post("/encode", content=b"\x83\xa4role\xa5query\xa4lane\xa4slow\xa6inputs\x91\x80")
        assert "lane is 'slow'" in response.json()["detail"]
