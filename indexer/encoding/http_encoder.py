"""The client of an encoder in another process, over HTTP and msgpack: it splits large calls and retries those that did
not arrive."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx
import structlog
from opentelemetry.trace import SpanKind

from indexer.backoff import Backoff
from indexer.connections import BoundedTransport
from indexer.encoding.encoder import Lane
from indexer.errors import EncoderDied, EncoderTimedOut
from indexer.observability import tracing
from model import codec
from model.errors import DependencyUnavailable, InvalidInput, Overloaded, RetrievalError, TimedOut, TooLarge
from model.settings import setting
from model.types import Embedding, Input, ModelInfo, Role

# The encoder was not reached, or the connection broke: encoding twice does no harm. Time-outs are not retried, ours or
# the encoder's: the encoder is busy with this very call, and a second one would make it busier.
_RETRIED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
# Broken connections of one call before it is given up: its inputs may be what kills encoders.
_MAX_BREAKS = 2
_STUCK_TIMEOUTS = 2.0
_RETRIED_STATUS = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class EncoderClientSettings:
    url: str
    api_key: str | None = None
    timeout_s: float = setting(
        30.0, "encoder_timeout_s", "one call of the encoder, all attempts and waiting in its queue included", gt=0
    )
    connect_timeout_s: float = 2.0
    attempts: int = setting(3, "encoder_attempts", "attempts at a call of the encoder that does not reach it", gt=0)
    retry_base_s: float = 0.1
    retry_max_s: float = 5.0
    connections: int = 64
    max_call_inputs: int = 64
    max_call_bytes: int = 32 * 2**20
    info_max_age_s: float = 10.0


class HttpEncoder:
    """Safe to call from many tasks of one event loop. Whoever makes it closes it with `stop`."""

    def __init__(self, settings: EncoderClientSettings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        url = httpx.URL(settings.url)
        # Messages name the encoder without the password that a URL may carry.
        self._name = f"{url.scheme}://{url.netloc.decode()}"
        self._transport = BoundedTransport(settings.connections, None if transport is None else lambda: transport)
        self._http = httpx.AsyncClient(
            base_url=settings.url,
            auth=_bearer(settings.api_key) if settings.api_key else None,
            # `_request` bounds the whole call.
            timeout=httpx.Timeout(None, connect=settings.connect_timeout_s),
            trust_env=False,
            transport=self._transport,
        )
        self._backoff, self._rng = Backoff(settings.retry_base_s, settings.retry_max_s), random.Random()
        self._info: ModelInfo | None = None
        self._info_at = 0.0
        self._info_lock = asyncio.Lock()

    def start(self) -> None:
        """Do nothing: a client needs no start. A `Batcher`, which may stand in its place, does."""

    async def stop(self, grace_s: float = 0.0) -> None:
        await self._http.aclose()

    @property
    def alive(self) -> bool:
        """Whether connections become free: each call ends within `timeout_s`, so a full pool that gives none is
        broken."""
        return self._transport.connections.exhausted_s < _STUCK_TIMEOUTS * self._settings.timeout_s

    async def check(self, max_age_s: float) -> None:
        """Raise `DependencyUnavailable` unless the encoder is ready (`/readyz`) and accepts our key (`/info`)."""
        await self._request("GET", "/readyz")
        await self._request("GET", "/info")

    async def info(self) -> ModelInfo:
        """Return what the model is, cached for `info_max_age_s`. While the encoder is unavailable, return the last
        known value."""
        async with self._info_lock:
            if self._info is None or time.monotonic() - self._info_at > self._settings.info_max_age_s:
                try:
                    self._info = _model_info(await self._request("GET", "/info"), self._name)
                except RetrievalError:
                    if self._info is None:
                        raise
                self._info_at = time.monotonic()
            return self._info

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        results: list[Embedding | RetrievalError] = []
        for call in self._calls(inputs):
            results += await self._encode(call, role, lane)
        return results

    def _calls(self, inputs: Sequence[Input]) -> Iterator[list[Input]]:
        """Split the inputs, in order, into calls within both bounds; an input over the byte bound is a call of its
        own."""
        call: list[Input] = []
        size_bytes = 0
        for item in inputs:
            weight = len(item.image or b"") + len(item.text or "")
            if call and (
                len(call) >= self._settings.max_call_inputs or size_bytes + weight > self._settings.max_call_bytes
            ):
                yield call
                call, size_bytes = [], 0
            call.append(item)
            size_bytes += weight
        if call:
            yield call

    async def _encode(self, inputs: Sequence[Input], role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        try:
            with tracing.span("call encoder", SpanKind.CLIENT, inputs=len(inputs), lane=lane):
                response = await self._request("POST", "/encode", codec.pack_call(inputs, role, lane))
        except TooLarge as error:
            # This encoder accepts less in one call than our settings say.
            if len(inputs) == 1:
                return [error]
            middle = len(inputs) // 2
            return [
                *await self._encode(inputs[:middle], role, lane),
                *await self._encode(inputs[middle:], role, lane),
            ]
        try:
            results = codec.unpack_answer(response.content)
        except InvalidInput as error:
            raise DependencyUnavailable(f"encoder {self._name}: {error.detail}") from error
        if len(results) != len(inputs):
            raise DependencyUnavailable(f"encoder {self._name} gave {len(results)} results for {len(inputs)} inputs")
        return results

    async def _request(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        """Send a request. Raises `Overloaded`, `TooLarge` or `DependencyUnavailable`, of which `TimedOut` is a kind."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._send_with_retries(method, path, body)
        except TimeoutError as error:
            kind = TimedOut if body is None else EncoderTimedOut
            raise kind(f"encoder {self._name}: no answer within {self._settings.timeout_s:g} s") from error

    async def _send_with_retries(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        failed: RetrievalError = DependencyUnavailable()
        # A single broken connection may have been idle for too long; two mean that the encoder died.
        broke = 0
        for attempt in range(self._settings.attempts):
            if attempt:
                await asyncio.sleep(self._backoff.delay_s(attempt - 1, self._rng))
            try:
                response = await self._http.request(
                    method,
                    path,
                    content=body,
                    headers=_correlation_headers() | ({"content-type": codec.MEDIA_TYPE} if body else {}),
                )
            except _RETRIED as error:
                failed = self._unavailable(type(error).__name__, error)
                broke += body is not None and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if broke == _MAX_BREAKS:
                    break
                continue
            except httpx.HTTPError as error:
                raise self._unavailable(type(error).__name__, error) from error
            if response.is_success:
                return response
            failed = self._refusal(response)
            if body is not None and isinstance(failed, TimedOut):
                raise EncoderTimedOut(failed.detail)
            if response.status_code not in _RETRIED_STATUS:
                raise failed
            # A proxy answered, not an encoder: it lost the connection with the call on it, or had none.
            broke += body is not None and not _is_problem(response)
            if broke == _MAX_BREAKS:
                break
        if broke:
            raise EncoderDied(failed.detail) from failed
        raise failed

    def _refusal(self, response: httpx.Response) -> RetrievalError:
        detail = _detail(response)
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            after = response.headers.get("retry-after", "")
            return Overloaded(
                f"encoder {self._name} is busy: {detail}", retry_after_s=float(after) if after.isdigit() else 1.0
            )
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge(detail)
        if response.status_code == HTTPStatus.GATEWAY_TIMEOUT:
            return TimedOut(f"encoder {self._name}: {detail}")
        return self._unavailable(f"answered {response.status_code}: {detail}")

    def _unavailable(self, reason: str, cause: Exception | None = None) -> DependencyUnavailable:
        error = DependencyUnavailable(f"encoder {self._name}: {reason}")
        error.__cause__ = cause
        return error


def _correlation_headers() -> dict[str, str]:
    """Name the request or the job in the headers, for the encoder's logs and spans."""
    context = structlog.contextvars.get_contextvars()
    request_id = context.get("request_id") or (f"job:{context['job']}" if "job" in context else None)
    return tracing.headers() | ({"x-request-id": request_id[:128]} if request_id else {})


def _bearer(key: str) -> Callable[[httpx.Request], httpx.Request]:
    """Return an authenticator that sends the key. Otherwise httpx would send a password from the URL in its place."""

    def with_key(request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = f"Bearer {key}"
        return request

    return with_key


def _detail(response: httpx.Response) -> str:
    """Return the detail of a problem, or the failed checks of a probe. A proxy's page is cut short."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    if isinstance(body, dict) and isinstance(body.get("checks"), dict):
        return "; ".join(f"{name}: {state}" for name, state in body["checks"].items() if state != "ok")
    return str(body.get("detail", "")) if isinstance(body, dict) else ""


def _is_problem(response: httpx.Response) -> bool:
    """Return whether an encoder answered, and not a proxy in front of it."""
    content_type: str = response.headers.get("content-type", "")
    return content_type.startswith("application/problem+json")


def _model_info(response: httpx.Response, name: str) -> ModelInfo:
    try:
        model: dict[str, Any] = response.json()["model"]
        return ModelInfo(**{name: model[name] for name in ModelInfo.__dataclass_fields__})
    except (ValueError, KeyError, TypeError) as error:
        raise DependencyUnavailable(f"encoder {name} answered /info with an unexpected body") from error
