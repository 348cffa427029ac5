"""The client of an encoder process, over HTTP and msgpack: which models it has, and calls of one of them.

It splits large calls and retries those that did not arrive.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import httpx
import orjson
import structlog
from opentelemetry.trace import SpanKind

from indexer.backoff import Backoff
from indexer.connections import BoundedTransport
from indexer.encoding.encoder import Lane
from indexer.encoding.registry import ModelState, ServedModel
from indexer.errors import EncoderDied, EncoderTimedOut, ModelUnavailable
from indexer.observability import tracing
from model import codec
from model.errors import DependencyUnavailable, InvalidInput, Overloaded, RetrievalError, TimedOut, TooLarge
from model.passages import Cut, Passages
from model.settings import setting
from model.types import Embedding, Input, ModelInfo, Role

# The encoder was not reached, or the connection broke: encoding twice does no harm. Time-outs are not retried, ours or
# the encoder's: the encoder is busy with this very call, and a second one would make it busier.
_RETRIED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
# Broken connections of one call before it is given up: its inputs may be what kills encoders.
_MAX_BREAKS = 2
_STUCK_TIMEOUTS = 2.0
_LOADING_MAX_AGE_S = 1.0
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
    """A `ModelHost` in another process; as an `Encoder` it is that of its default model.

    Safe to call from many tasks of one event loop. Whoever makes it closes it with `stop`.
    """

    def __init__(self, settings: EncoderClientSettings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        url = httpx.URL(settings.url)
        # Without the password that a URL may carry.
        self.name = f"{url.scheme}://{url.netloc.decode()}"
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
        self._models: list[ServedModel] = []
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Do nothing: a client needs no start. A `Batcher`, which may stand in its place, does."""

    async def stop(self, grace_s: float = 0.0) -> None:
        if self._asking is not None:
            self._asking.cancel()
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

    async def models(self) -> list[ServedModel]:
        """Cached for `info_max_age_s`, or for a second while it loads one of them. While the encoder is unavailable its
        last known models are returned as failed.
        """
        max_age_s = self._settings.info_max_age_s
        if any(model.state is ModelState.LOADING for model in self._models):
            max_age_s = min(max_age_s, _LOADING_MAX_AGE_S)
        if not self._models or time.monotonic() - self._asked_at > max_age_s:
            # All who ask wait for the same answer, which none of them cancels by leaving.
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
                self._asking.add_done_callback(_retrieve)
            await asyncio.shield(self._asking)
        return self._models

    async def _ask(self) -> None:
        try:
            self._models = _served_models(await self._request("GET", "/info"), self.name)
        except RetrievalError as error:
            if not self._models:
                raise
            self._models = [replace(model, state=ModelState.FAILED, detail=error.detail) for model in self._models]
        self._asked_at = time.monotonic()

    def encoder(self, model: str) -> RemoteModel:
        return RemoteModel(self, model)

    async def info(self) -> ModelInfo:
        """Return what the model is. Raises `ModelUnavailable` if the encoder has not loaded it, or no longer has it."""
        return await RemoteModel(self, (await self.models())[0].name).info()

    async def encode(
        self, inputs: Sequence[Input], *, role: Role, lane: Lane, model: str | None = None
    ) -> list[Embedding | RetrievalError]:
        """Embed by one of the encoder's models, by default its first."""
        results: list[Embedding | RetrievalError] = []
        for call in self._calls(inputs):
            results += await self._encode(call, role, lane, model)
        return results

    async def passages(self, texts: Sequence[str], cut: Cut, *, model: str | None = None) -> list[Passages]:
        """Cut texts by the tokenizer of one of the encoder's models, by default its first."""
        passages: list[Passages] = []
        for call in self._calls([Input(text) for text in texts]):
            body = {"texts": [item.text for item in call], "tokens": cut.tokens, "overlap": cut.overlap}
            written = orjson.dumps(body | {"max_passages": cut.most, "model": model})
            response = await self._request("POST", "/passages", written, "application/json")
            passages += _passages(response, len(call), self.name)
        return passages

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

    async def _encode(
        self, inputs: Sequence[Input], role: Role, lane: Lane, model: str | None
    ) -> list[Embedding | RetrievalError]:
        try:
            with tracing.span("call encoder", SpanKind.CLIENT, inputs=len(inputs), lane=lane):
                response = await self._request("POST", "/encode", codec.pack_call(inputs, role, lane, model))
        except TooLarge as error:
            # This encoder accepts less in one call than our settings say.
            if len(inputs) == 1:
                return [error]
            middle = len(inputs) // 2
            return [
                *await self._encode(inputs[:middle], role, lane, model),
                *await self._encode(inputs[middle:], role, lane, model),
            ]
        try:
            results = codec.unpack_answer(response.content)
        except InvalidInput as error:
            raise DependencyUnavailable(f"encoder {self.name}: {error.detail}") from error
        if len(results) != len(inputs):
            raise DependencyUnavailable(f"encoder {self.name} gave {len(results)} results for {len(inputs)} inputs")
        return results

    async def _request(
        self, method: str, path: str, body: bytes | None = None, media_type: str = codec.MEDIA_TYPE
    ) -> httpx.Response:
        """Send a request. Raises `Overloaded`, `TooLarge` or `DependencyUnavailable`, of which `TimedOut` is a kind."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._send_with_retries(method, path, body, media_type)
        except TimeoutError as error:
            kind = TimedOut if body is None else EncoderTimedOut
            raise kind(f"encoder {self.name}: no answer within {self._settings.timeout_s:g} s") from error

    async def _send_with_retries(self, method: str, path: str, body: bytes | None, media_type: str) -> httpx.Response:
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
                    headers=_correlation_headers() | ({"content-type": media_type} if body else {}),
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
                f"encoder {self.name} is busy: {detail}", retry_after_s=float(after) if after.isdigit() else 1.0
            )
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge(detail)
        if response.status_code == HTTPStatus.NOT_FOUND:
            # It was restarted with other models than it had.
            self._asked_at = -math.inf
        if response.status_code == HTTPStatus.GATEWAY_TIMEOUT:
            return TimedOut(f"encoder {self.name}: {detail}")
        return self._unavailable(f"answered {response.status_code}: {detail}")

    def _unavailable(self, reason: str, cause: Exception | None = None) -> DependencyUnavailable:
        error = DependencyUnavailable(f"encoder {self.name}: {reason}")
        error.__cause__ = cause
        return error


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """One model of an encoder process, as an `Encoder`."""

    host: HttpEncoder
    name: str

    async def info(self) -> ModelInfo:
        """Return what the model is. Raises `ModelUnavailable` if the encoder has not loaded it, or no longer has it."""
        model = next((model for model in await self.host.models() if model.name == self.name), None)
        if model is None:
            raise ModelUnavailable(f"encoder {self.host.name} does not serve model {self.name} any more")
        if model.info is None:
            detail = model.detail or "it is being loaded"
            raise ModelUnavailable(f"encoder {self.host.name}: model {self.name}: {detail}")
        return model.info

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        return await self.host.encode(inputs, role=role, lane=lane, model=self.name)

    async def passages(self, texts: Sequence[str], cut: Cut) -> list[Passages]:
        return await self.host.passages(texts, cut, model=self.name)


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


def _retrieve(asking: asyncio.Task[None]) -> None:
    """Take the error of a question that nobody waits for any more, which asyncio would log."""
    if not asking.cancelled():
        asking.exception()


def _passages(response: httpx.Response, count: int, name: str) -> list[Passages]:
    try:
        results = [
            Passages(tuple((int(start), int(end)) for start, end in result["passages"]), int(result["dropped_tokens"]))
            for result in response.json()["results"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DependencyUnavailable(f"encoder {name} answered /passages with an unexpected body") from error
    if len(results) != count:
        raise DependencyUnavailable(f"encoder {name} cut {len(results)} texts of {count}")
    return results


def _served_models(response: httpx.Response, name: str) -> list[ServedModel]:
    try:
        models = [_served_model(model) for model in response.json()["models"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DependencyUnavailable(f"encoder {name} answered /info with an unexpected body") from error
    if not models:
        raise DependencyUnavailable(f"encoder {name} serves no model")
    return models


def _served_model(model: dict[str, Any]) -> ServedModel:
    info = None
    if model.get("fingerprint"):
        # An encoder of an earlier version says less.
        fields = {name: model[name] for name in ModelInfo.__dataclass_fields__ if name in model}
        lists = {name: tuple(model.get(name) or ()) for name in ("modalities", "shorter")}
        info = ModelInfo(**fields | lists)
    return ServedModel(model["name"], ModelState(model["state"]), info, model.get("detail"))
