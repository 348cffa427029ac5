"""What ops and the curious ask first: /livez, /readyz, /metrics, /info and the page at /."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse, Response

from model.errors import DependencyUnavailable, RetrievalError
from service.parts import Parts, PartsOf
from service.schemas import InfoOut, LiveOut, ReadyOut
from service.wire import Json

router = APIRouter(tags=["operations"])

_CHECK_TIMEOUT_S = 5.0  # of one readiness check; over a forward on a slow CPU, under a probe's usual patience


@router.get("/livez", response_model=LiveOut, responses={503: {"model": LiveOut}})
async def livez(parts: PartsOf) -> Response:
    """503 when the model thread or the worker is dead or stuck: only a restart helps."""
    alive = {"encoder": parts.encoder.alive, "worker": parts.worker.alive}
    return Json({"alive": all(alive.values()), "parts": alive}, 200 if all(alive.values()) else 503)


@router.get("/readyz", response_model=ReadyOut, responses={503: {"model": ReadyOut}})
async def readyz(parts: PartsOf) -> Response:
    """200 when a real forward has worked recently and everything this process needs answers."""
    checks = {
        "encoder": parts.encoder.check(parts.settings.ready_max_age_s),
        "store": parts.store.ping(),
        "ledger": parts.in_ledger(parts.ledger.pending_documents),
        "worker": _worker(parts),
        "draining": _not_draining(parts),
    }
    states = dict(zip(checks, await asyncio.gather(*map(_state, checks.values())), strict=True))
    ready = all(state == "ok" for state in states.values())
    return Json({"ready": ready, "checks": states}, 200 if ready else 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(parts: PartsOf) -> Response:
    parts.metrics.pending_documents.set(await parts.in_ledger(parts.ledger.pending_documents))
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/info", response_model=InfoOut)
async def info(parts: PartsOf) -> Response:
    """The model behind this service and the bounds on what may be sent."""
    model, settings = await parts.encoder.info(), parts.settings
    names = [
        name for name in type(settings).model_fields if name.startswith("max_") and not name.startswith("max_batch")
    ]
    return Json(
        {
            "version": version("ret2"),
            "model": {
                "name": model.name,
                "fingerprint": model.fingerprint,
                "dimensions": model.dimensions,
                "max_text_tokens": model.max_text_tokens,
                "image_size_px": model.image_size_px,
            },
            "limits": {name: getattr(settings, name) for name in names},
        }
    )


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def root(parts: PartsOf) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(model=(await parts.encoder.info()).name))


async def _state(check: Awaitable[Any]) -> str:
    try:
        await asyncio.wait_for(check, _CHECK_TIMEOUT_S)
    except TimeoutError:
        return f"no answer within {_CHECK_TIMEOUT_S:g} s"
    except RetrievalError as error:
        return error.detail
    return "ok"


async def _worker(parts: Parts) -> None:
    if not parts.worker.alive:
        raise DependencyUnavailable("the worker is not running")


async def _not_draining(parts: Parts) -> None:
    if parts.draining.is_set():
        raise DependencyUnavailable("this process is stopping")


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ret2</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}}</style>
<h1>ret2</h1>
<p>Multimodal retrieval as a service. Model: {model}.</p>
<ul>
<li><a href="docs">API documentation</a> (<a href="openapi.json">OpenAPI</a>)
<li><a href="info">Model and limits</a>
<li><a href="collections">Collections</a>, <a href="jobs">jobs</a>
<li><a href="readyz">Readiness</a>, <a href="metrics">metrics</a>
</ul>
"""
