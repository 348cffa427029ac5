"""OpenTelemetry traces, on when OTEL_EXPORTER_OTLP_ENDPOINT says where to: a span for each request, handed on to
encoder, store and worker.

Sampling, headers and the rest are OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, …).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from importlib.metadata import version
from typing import Any

from opentelemetry import trace

from model.errors import InvalidInput

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start_traces(role: str) -> None:
    """Start recording traces; the remaining ones are sent when the process ends. Raises `InvalidInput` if the extra
    `otel` is not installed."""
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


def add_trace(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the trace of a log line, as a processor of structlog."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event
