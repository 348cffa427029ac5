"""The routes of operators: /livez, /readyz, /metrics, /info and the page at /."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse, Response

from indexer.encoding.registry import Encoders, ServedModel
from model.types import ModelInfo
from service.http.health import Health
from service.http.middleware.security_headers import page_policy
from service.http.responses import Json
from service.observability.metrics import Metrics
from service.schemas.operations import InfoOut, LiveOut, ReadyOut
from service.settings import Settings

router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])


class Process(Protocol):
    """A process as the probes see it, whatever its role."""

    @property
    def settings(self) -> Settings: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def encoders(self) -> Encoders: ...

    @property
    def health(self) -> Health: ...

    @property
    def draining(self) -> asyncio.Event: ...

    @property
    def qdrant_versions(self) -> list[str]: ...

    async def refresh_metrics(self) -> None:
        """Update the metrics of what is counted elsewhere."""
        ...


async def process_of(request: Request) -> Process:  # async: FastAPI would take a plain one to a thread
    process: Process = request.app.state.process
    return process


ProcessOf = Annotated[Process, Depends(process_of)]


@router.get("/livez", response_model=LiveOut, responses={503: {"model": LiveOut}})
async def check_liveness(process: ProcessOf) -> Response:
    """Check that this process is alive.

    503 when a part of it, such as the model's thread, is dead or stuck: only a restart helps.
    """
    parts = {name: alive() for name, alive in process.health.alive.items()}
    alive = all(parts.values())
    return Json({"alive": alive, "parts": parts}, 200 if alive else 503)


@router.get("/readyz", response_model=ReadyOut, responses={503: {"model": ReadyOut}})
async def check_readiness(request: Request) -> Response:
    """Check that a forward pass has worked recently and that everything this process needs answers.

    Of several models one is enough: what is wrong with the others is said beside it.
    """
    report = await request.app.state.readiness.report()
    ready = all(state == "ok" for state in report.checks.values())
    return Json({"ready": ready, "checks": report.checks, "models": report.models}, 200 if ready else 503)


@metrics_router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def read_metrics(process: ProcessOf) -> Response:
    """Return the metrics in the text format of Prometheus."""
    await process.refresh_metrics()
    return Response(generate_latest(process.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/info", response_model=InfoOut)
async def read_info(process: ProcessOf) -> Response:
    """Return the models behind this service, the default first, the versions of its Qdrant servers and the limits on
    requests."""
    settings = process.settings
    names = [
        name for name in type(settings).model_fields if name.startswith("max_") and not name.startswith("max_batch")
    ]
    return Json(
        {
            "version": version("ret2"),
            "models": [_model_wire(model) for model in await process.encoders.served()],
            "qdrant_versions": process.qdrant_versions,
            "limits": {name: getattr(settings, name) for name in names},
        }
    )


def _model_wire(model: ServedModel) -> dict[str, Any]:
    """Describe a model; of one that is not loaded its name and state are known."""
    facts = {} if model.info is None else {name: getattr(model.info, name) for name in ModelInfo.__dataclass_fields__}
    return {**facts, "name": model.name, "state": model.state, "detail": model.detail}


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def root(process: ProcessOf) -> HTMLResponse:
    page = _PAGE.format(models=", ".join(model.name for model in await process.encoders.served()))
    return HTMLResponse(page, headers={"content-security-policy": page_policy("style-src 'unsafe-inline'")})


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ret2</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}}</style>
<h1>ret2</h1>
<p>Multimodal retrieval as a service. Models: {models}.</p>
<ul>
<li><a href="docs">API documentation</a> (<a href="openapi.json">OpenAPI</a>)
<li><a href="info">Models and limits</a>
<li><a href="collections">Collections</a>, <a href="jobs">jobs</a>
<li><a href="readyz">Readiness</a>
</ul>
"""
