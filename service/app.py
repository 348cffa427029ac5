"""What every application of this project has, whatever its role: the layers around the routes, errors as problems, the probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware

from service import errors, probes
from service.auth import ApiKeyGate
from service.keys import KeyFile
from service.limits import EncodedPaths, RequestLimits
from service.openai_errors import OpenAiErrors
from service.probes import Process
from service.schemas import Problem
from service.telemetry import RequestLog

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text, "content": {"application/problem+json": {}}}
    for status, text in {
        400: "the input cannot be used",
        401: "no valid API key",
        403: "the API key is not for this: another scope, or another collection",
        404: "there is nothing of that name",
        409: "does not fit the present state, such as a collection of another model",
        413: "over a size limit",
        422: "does not fit the schema",
        429: "at its limit; see Retry-After",
        503: "something it needs does not answer; see Retry-After",
    }.items()
}


def application(
    process: Process, api_keys: KeyFile | None, routers: Iterable[APIRouter], lifespan: Lifespan
) -> FastAPI:
    """The routers and the probes over a process; what its routes need is put into `state` by the caller."""
    settings = process.settings
    app = FastAPI(
        title="ret2",
        version=version("ret2"),
        description="Multimodal retrieval: documents and queries of text, an image, or both, fused into one embedding.",
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        middleware=[
            Middleware(OpenAiErrors),
            Middleware(RequestLog, metrics=process.metrics),
            Middleware(EncodedPaths),
            Middleware(ApiKeyGate, keys=api_keys),
            Middleware(
                RequestLimits,
                max_body_bytes=settings.max_body_bytes,
                max_stream_bytes=settings.max_stream_bytes,
                max_in_flight=settings.max_requests_in_flight,
            ),
        ],
    )
    app.state.process = process
    errors.install(app)
    for router in routers:
        app.include_router(router, responses=_PROBLEMS)
    app.include_router(probes.router)
    return app
