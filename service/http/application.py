"""The frame of every application of this project: middleware around the routes, errors as problems, and the probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service.http import probes, problems
from service.http.health import Readiness
from service.http.middleware.answers import AnswerLimits
from service.http.middleware.api_keys import ApiKeyGate
from service.http.middleware.content_encoding import ContentEncoding
from service.http.middleware.head import HeadAsGet
from service.http.middleware.limits import Places, RequestLimits
from service.http.middleware.openai_errors import OpenAiErrors
from service.http.middleware.origins import OwnPages
from service.http.middleware.paths import SentPaths
from service.http.middleware.quotas import KeyQuotas
from service.http.middleware.request_log import RequestLog
from service.http.middleware.security_headers import SecurityHeaders
from service.http.middleware.traces import Traces
from service.http.openapi import document, swagger_ui
from service.http.probes import Process
from service.http.refusals import Refusals
from service.keys import KeyFile
from service.schemas.operations import Problem

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text, "content": {"application/problem+json": {}}}
    for status, text in {
        400: "the input cannot be used",
        401: "no valid API key",
        403: "the API key is not for this: another scope, or another collection; or a web page of another origin asks",
        404: "there is nothing of that name",
        408: "the body came too slowly",
        409: "does not fit the present state, such as a collection of another model",
        413: "over a size limit",
        415: "the body is of another content type",
        422: "does not fit the schema",
        429: "at its limit; see Retry-After",
        503: "something it needs does not answer; see Retry-After",
        504: "no answer within the time there was",
    }.items()
}


def application(
    process: Process, api_keys: KeyFile | None, routers: Iterable[APIRouter], lifespan: Lifespan
) -> FastAPI:
    """Build the application from the routers and the probes of a process. The caller puts into `state` what the routes
    need."""
    settings = process.settings
    places = Places(settings.http)
    app = FastAPI(
        title="ret2",
        version=version("ret2"),
        description="Multimodal retrieval: documents and queries of text, an image, or both, fused into one embedding.",
        contact=document.CONTACT,
        license_info=document.LICENSE,
        servers=document.SERVERS,
        openapi_tags=document.TAGS,
        generate_unique_id_function=document.operation_id,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(SentPaths),
            Middleware(SecurityHeaders),
            Middleware(OpenAiErrors),
            Middleware(Traces),
            Middleware(RequestLog, metrics=process.metrics),
            *_cors(settings.cors_origins),
            Middleware(ApiKeyGate, keys=api_keys),
            Middleware(OwnPages, origins=settings.cors_origins),
            Middleware(KeyQuotas, settings=settings.quotas),
            Middleware(ContentEncoding),
            Middleware(RequestLimits, bounds=settings.http, places=places),
            Middleware(AnswerLimits, max_answers_bytes=settings.http.max_answers_bytes),
            Middleware(HeadAsGet),
        ],
    )
    app.state.process = process
    app.state.refusals = Refusals(places, process.metrics)
    app.state.readiness = Readiness(lambda: process.health)
    problems.install(app)
    for router in routers:
        app.include_router(router, responses=_PROBLEMS)
    app.include_router(probes.router)
    if settings.metrics_port is None:
        app.include_router(probes.metrics_router)
    app.include_router(swagger_ui.router)
    _complete_openapi(app)
    return app


def metrics_application(process: Process) -> FastAPI:
    """Build the application of the metrics port. It needs no key, because the network decides who reaches that port."""
    app = FastAPI(openapi_url=None)
    app.state.process = process
    app.include_router(probes.metrics_router)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Serve the completed document, which is made once: it takes half a second, and anybody may ask for it."""
    generated = app.openapi
    app.openapi = cache(lambda: document.complete(generated()))  # type: ignore[method-assign]


def _cors(origins: str | None) -> list[Middleware]:
    """Return the middleware that lets pages of these origins ask, without a key, whether they may send one."""
    if origins is None:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins.split(","),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-api-key", "x-request-id"],
            expose_headers=["retry-after", "server-timing", "x-request-id", "x-ret2-truncated"],
        )
    ]
