"""Protection against other web pages: only pages of this origin, and of the origins in `RET2_CORS_ORIGINS`, may change
anything.

A browser sends a POST without a body for a page of anybody, and asks nobody first. It says of each request whether the
page is of another site; programs say nothing, and are let through.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import Forbidden
from service.http.problems import problem_of

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHERS = frozenset({"cross-site", "same-site"})  # of `Sec-Fetch-Site`; same-site is another origin too


class OwnPages:
    def __init__(self, app: ASGIApp, origins: str | None) -> None:
        self._app = app
        self._origins = frozenset(origins.split(",")) if origins else frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app
        if scope["type"] == "http" and scope["method"] not in _SAFE and self._is_of_others(Headers(scope=scope)):
            error = Forbidden("a page of another origin may not do this; RET2_CORS_ORIGINS names the origins that may")
            answer = problem_of(error, scope["state"]["request_id"])
        await answer(scope, receive, send)

    def _is_of_others(self, headers: Headers) -> bool:
        allowed = "*" in self._origins or headers.get("origin") in self._origins
        return headers.get("sec-fetch-site") in _OTHERS and not allowed
