"""One OpenTelemetry span for each traced request."""

from __future__ import annotations

from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from indexer.observability import tracing
from service.http.middleware.limits import PROBES
from service.http.middleware.status import StatusRecorder


class Traces:
    """A span for each request but the probes', named by its template.

    Paths are left out: document ids stand in them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES or not (tracing.recording() or _is_traced(scope)):
            await self._app(scope, receive, send)
            return
        recorder = StatusRecorder(send)

        with tracing.span("request", SpanKind.SERVER, parent=tracing.received(Headers(scope=scope))) as span:
            try:
                await self._app(scope, receive, recorder)
            finally:
                status = recorder.status
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
    """Return whether the caller traces this request; its context is passed on even if nothing is recorded here."""
    return any(name == b"traceparent" for name, _ in scope["headers"])
