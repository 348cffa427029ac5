"""Spans and the W3C context that ties them together across processes and time, by OpenTelemetry's API.

Unless `service.observability.tracing` has set up its SDK nothing is recorded, and a caller's context is handed on as it
came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, ProxyTracerProvider, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from model.errors import RetrievalError

_tracer = trace.get_tracer("ret2")
_w3c = TraceContextTextMapPropagator()

Attribute = str | int | float | bool


def recording() -> bool:
    """Return whether spans are exported."""
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    parent: Context | None = None,
    links: Sequence[str] = (),
    **attributes: Attribute,
) -> Iterator[Span]:
    """Record a step of the work, under `parent` or the current step. Attributes `ret2.…` are names and numbers, never
    content.

    `links` are the trace parents of other requests that this step works for.
    """
    if parent is None and not recording():  # a tenth of what a request costs, for nothing
        yield INVALID_SPAN
        return
    named = {f"ret2.{key}": value for key, value in attributes.items()}
    linked = [Link(trace.get_current_span(context_of(current)).get_span_context()) for current in links]
    # An exception's own words may hold anything, so only its kind is recorded.
    with _tracer.start_as_current_span(
        name, parent, kind, named, linked, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR))
            current.set_attribute(
                "error.type", error.code if isinstance(error, RetrievalError) else type(error).__name__
            )
            raise


def note(**attributes: Attribute) -> None:
    """Add attributes to the current step."""
    trace.get_current_span().set_attributes({f"ret2.{key}": value for key, value in attributes.items()})


def headers() -> dict[str, str]:
    """Return `traceparent` and `tracestate` for a call to another process; nothing without a trace."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier)
    return carrier


def received(headers: Mapping[str, str]) -> Context:
    """Return the context of a caller. Malformed headers are ignored."""
    return _w3c.extract(dict(headers))


def here() -> str | None:
    """Return the current step as a trace parent, to be kept with work for later."""
    return headers().get("traceparent")


def context_of(traceparent: str | None) -> Context:
    return received({"traceparent": traceparent} if traceparent else {})
