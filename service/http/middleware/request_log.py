"""One log line, one metric and one Server-Timing header for each request."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import path_sent, problem
from service.observability.metrics import Metrics, log

# A caller's own request id is kept when it is harmless in logs and headers.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


# The caller left before there was an answer: in logs and metrics alone, for nobody reads it.
CLIENT_CLOSED = 499

OTHER = "other"  # routes and methods that there are not: a caller may think of any number of them


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
        status, gone = 0, False
        began = time.perf_counter()
        structlog.contextvars.unbind_contextvars("job")  # of an earlier request in this task

        async def receive_or_leave() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = CLIENT_CLOSED if gone else message["status"]
                headers = [(b"x-request-id", request_id.encode())]
                if stages := scope["state"].get("took"):
                    stages["total_ms"] = (time.perf_counter() - began) * 1e3
                    headers.append((b"server-timing", server_timing(stages).encode()))
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        with (
            self._metrics.requests_in_flight.track_inprogress(),
            structlog.contextvars.bound_contextvars(request_id=request_id),
        ):
            try:
                await self._app(scope, receive_or_leave, send_with_id)
            except ClientDisconnect:
                status = CLIENT_CLOSED
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
        route = state.get("route") or getattr(scope.get("route"), "path", OTHER)
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        log.info(
            "request",
            method=scope["method"],
            path=path_sent(scope),
            route=route,
            status=status,
            key=getattr(state.get("key"), "name", None),
            ms=round(seconds * 1e3, 1),
        )


def server_timing(stages: Mapping[str, float]) -> str:
    """Render `decode_ms` as `decode;dur=1.2`, which browsers and other clients can read."""
    return ", ".join(f"{name.removesuffix('_ms')};dur={value:.3f}" for name, value in stages.items())


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(request_id := value.decode("latin-1")):
            return str(request_id)
    return uuid.uuid4().hex
