"""Headers on every answer that let a browser do as little with it as possible. A route that sets one of them keeps its
own."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of answers that no browser shows. A page says what it needs.
NOTHING = "default-src 'none'; frame-ancestors 'none'"

_HEADERS = {
    "content-security-policy": NOTHING,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}

# A key in X-API-Key, unlike Authorization, does not keep a shared cache from storing an answer.
_NO_STORE = "no-store"
_PRIVATE_TYPES = ("application/json", "application/problem+json", "application/msgpack")

# Of an answer that goes around the layers.
PRIVATE_HEADERS = tuple(
    (name.encode(), value.encode()) for name, value in {**_HEADERS, "cache-control": _NO_STORE}.items()
)


def page_policy(*directives: str) -> str:
    """Return the content security policy of a page, which allows only what is named."""
    return "; ".join((NOTHING, "base-uri 'none'", "form-action 'none'", *directives))


class SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if headers.get("content-type", "").startswith(_PRIVATE_TYPES):
                    headers.setdefault("cache-control", _NO_STORE)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
