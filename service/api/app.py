"""The HTTP application over ready parts: routes, the layers around them, and starting and stopping what runs behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from service import errors
from service.api import collections, documents, jobs, probes, search
from service.api.limits import EncodedPaths, RequestLimits
from service.auth import ApiKeyGate
from service.encoder import routes as encode
from service.parts import Parts
from service.schemas import Problem
from service.telemetry import RequestLog

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text, "content": {"application/problem+json": {}}}
    for status, text in {
        400: "the input cannot be used",
        401: "no valid API key",
        404: "there is nothing of that name",
        409: "does not fit the present state, such as a collection of another model",
        413: "over a size limit",
        422: "does not fit the schema",
        429: "at its limit; see Retry-After",
        503: "something it needs does not answer; see Retry-After",
    }.items()
}


def create_app(parts: Parts) -> FastAPI:
    """Starts the batcher and the worker with its lifespan; takes ready objects, so that tests pass fakes."""
    settings = parts.settings
    app = FastAPI(
        title="ret2",
        version=version("ret2"),
        description="Multimodal retrieval: documents and queries of text, an image, or both, fused into one embedding.",
        lifespan=_lifespan,
        redoc_url=None,
        middleware=[
            Middleware(RequestLog, metrics=parts.metrics),
            Middleware(ApiKeyGate, keys=parts.api_keys),
            Middleware(
                RequestLimits,
                max_body_bytes=settings.max_body_bytes,
                max_stream_bytes=settings.max_stream_bytes,
                max_in_flight=settings.max_requests_in_flight,
            ),
            Middleware(EncodedPaths),
        ],
    )
    app.state.parts = parts
    app.state.encoding = encode.Encoding(
        parts.encoder, parts.fetcher, settings.limits, settings.max_inputs_per_call, settings.request_timeout_s
    )
    errors.install(app)
    for router in (search.router, encode.router, collections.router, documents.router, jobs.router):
        app.include_router(router, responses=_PROBLEMS)
    app.include_router(probes.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Up in the order of need, down in the reverse: the worker gives its work back before the encoder and the store go."""
    parts: Parts = app.state.parts
    async with AsyncExitStack() as stack:
        stack.callback(parts.ledger.close)
        stack.callback(parts.blobs.close)
        stack.push_async_callback(parts.store.close)
        stack.push_async_callback(parts.fetcher.aclose)
        parts.encoder.start()
        stack.push_async_callback(
            parts.encoder.stop, parts.settings.grace_s / 4
        )  # requests and worker are done by then
        await parts.worker.start()
        stack.push_async_callback(parts.worker.stop)
        yield
        parts.draining.set()
