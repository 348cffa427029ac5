"""Paths are matched as they were sent, percent signs and all, so that `%2F` in an id is a part of the id.

Whoever takes a value out of a path decodes it: `decoded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send


class SentPaths:
    """Puts the path as it was sent in place of the decoded one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = sent_path(scope)
        await self._app(scope, receive, send)


def sent_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    return raw.decode("latin-1") if raw else quote(scope["path"])


def decoded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that stand in a path."""
    return {name: unquote(value) if isinstance(value, str) else value for name, value in parameters.items()}
