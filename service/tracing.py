"""OpenTelemetry traces, on when OTEL_EXPORTER_OTLP_ENDPOINT says where to: a span for each request, handed on to encoder, store and worker.

Sampling, headers and the rest are OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, …).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.observability import tracing
from model.errors import InvalidInput
from service.limits import PROBES

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start_traces(role: str) -> None:
    """Records from here on, and sends the rest as the process ends. Raises `InvalidInput` when the extra `otel` is not installed."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidInput(f"{_ENDPOINTS[0]} is set, but traces need more packages: install ret2[otel]") from error
    resource = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME", f"ret2-{role}"),
        "service.version": version("ret2"),
    }
    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


class Traces:
    """A span for each request but the probes', named by its template. Paths are left out: document ids stand in them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES or not (tracing.recording() or _is_traced(scope)):
            await self._app(scope, receive, send)
            return
        status = 0

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.span("request", SpanKind.SERVER, parent=tracing.received(Headers(scope=scope))) as span:
            try:
                await self._app(scope, receive, seen)
            finally:
                state, method = scope.get("state", {}), scope["method"]
                if route := state.get("route"):
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                span.set_attribute("http.request.method", method)
                span.set_attribute("http.response.status_code", status)
                span.set_attribute("ret2.request_id", state.get("request_id", ""))
                if status >= 500 or not status:
                    span.set_status(Status(StatusCode.ERROR))


def _is_traced(scope: Scope) -> bool:
    """By its caller, whose context is handed on even if nothing is recorded here."""
    return any(name == b"traceparent" for name, _ in scope["headers"])


def add_trace(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For structlog: by which trace a line was written."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event
