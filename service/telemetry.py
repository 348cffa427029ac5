"""What ops see: Prometheus metrics, JSON logs, and one INFO line per request with its id. Never texts, image bytes or keys."""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.encoder import Lane
from service.errors import problem

log = structlog.get_logger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_COSTS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)

# A caller's own request id is kept when it is harmless in logs and headers.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Metrics:
    """Every metric of this process, in the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "ret2_requests", "HTTP requests answered", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "ret2_request_seconds", "HTTP request duration", ["route"], buckets=_SECONDS, registry=registry
        )
        self.requests_in_flight = Gauge("ret2_requests_in_flight", "HTTP requests being answered", registry=registry)
        self.queue_cost = Gauge("ret2_queue_cost", "Cost waiting for the model", ["lane"], registry=registry)
        self.overloaded = Counter(
            "ret2_overloaded", "Encoder calls refused because a lane was full", ["lane"], registry=registry
        )
        self.encoded = Counter(
            "ret2_encoded_inputs", "Inputs answered by the encoder", ["lane", "outcome"], registry=registry
        )
        self.batch_inputs = Histogram(
            "ret2_batch_inputs", "Inputs per batch", ["lane"], buckets=_COUNTS, registry=registry
        )
        self.batch_cost = Histogram("ret2_batch_cost", "Cost per batch", ["lane"], buckets=_COSTS, registry=registry)
        self.forward_seconds = Histogram(
            "ret2_forward_seconds", "Duration of a forward", ["lane"], buckets=_SECONDS, registry=registry
        )
        self.prepare_seconds = Histogram(
            "ret2_prepare_seconds", "Decoding and tokenising one input", buckets=_SECONDS, registry=registry
        )
        self.store_seconds = Histogram(
            "ret2_store_search_seconds", "Vector search", buckets=_SECONDS, registry=registry
        )
        self.hits = Histogram("ret2_search_hits", "Hits per search", buckets=(0, *_COUNTS), registry=registry)
        self.pending_documents = Gauge(
            "ret2_pending_documents", "Accepted documents not yet indexed", registry=registry
        )
        self.rejected_documents = Counter(
            "ret2_rejected_documents", "Posted documents not accepted", ["code"], registry=registry
        )

    def watch_queue(self, held: Callable[[Lane], int]) -> None:
        for lane in Lane:
            self.queue_cost.labels(lane).set_function(partial(held, lane))

    def batch(self, lane: Lane, inputs: int, cost: int, forward_s: float) -> None:
        self.batch_inputs.labels(lane).observe(inputs)
        self.batch_cost.labels(lane).observe(cost)
        self.forward_seconds.labels(lane).observe(forward_s)


class RequestLog:
    """The outermost layer: gives a request its id, counts and logs it, and answers for whatever raised inside."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        began = time.perf_counter()
        structlog.contextvars.unbind_contextvars("job")  # of an earlier request in this task

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        with (
            self._metrics.requests_in_flight.track_inprogress(),
            structlog.contextvars.bound_contextvars(request_id=request_id),
        ):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:  # the app's last handler
                log.exception("request raised")
                if status == 0:
                    await problem(
                        500, "internal", "An error that is not yours; the log has it under this request id.", request_id
                    )(scope, receive, send_with_id)
                else:
                    raise
            finally:
                self._count(scope, status, time.perf_counter() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        route = state.get("route") or getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, scope["method"], status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            key=getattr(state.get("key"), "name", None),
            ms=round(seconds * 1e3, 1),
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(given := value.decode("latin-1")):
            return str(given)
    return uuid.uuid4().hex


def configure_logs(level: str) -> None:
    """One JSON object a line on standard error, from structlog and from the standard library alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                _drop_color,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != "uvicorn.access"  # RequestLog writes that line
    for name in ("httpx", "httpcore", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they log URLs and chunks of every request


def _drop_color(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn's, for terminals
    return event
