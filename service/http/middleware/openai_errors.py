"""Errors under /v1/ as OpenAI's clients read them: the problem as everywhere, with a member `error` that says the same
in their words."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class OpenAiErrors:
    """Around every other layer, since some of them refuse requests before a route sees them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        under_v1 = scope["type"] == "http" and scope["path"].startswith("/v1/")
        await self._app(scope, receive, _Translated(send) if under_v1 else send)


class _Translated:
    """`send` that holds a problem back until it is whole, and lets everything else through."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_problem(message):
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            body = orjson.dumps(_with_error(orjson.loads(self._body)))
            MutableHeaders(raw=self._start["headers"])["content-length"] = str(len(body))
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": body})


def _is_problem(start: Message) -> bool:
    return (b"content-type", b"application/problem+json") in start["headers"]


def _with_error(problem: dict[str, Any]) -> dict[str, Any]:
    fields: list[dict[str, Any]] = problem.get("errors") or [{}]
    status: int = problem["status"]
    return problem | {
        "error": {
            "message": problem["detail"],
            "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": fields[0].get("field"),
            "code": problem["code"],
        }
    }
