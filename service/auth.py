"""API keys: one a line in a file, sent as `Authorization: Bearer …` or `X-API-Key: …`. Probes and metrics need none."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import InvalidInput, Unauthorized
from service.errors import problem_of

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
_MIN_KEY_CHARS = 16  # shorter ones can be guessed over HTTP


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file; empty lines and lines that start with # do not count. Raises `InvalidInput`, never showing a key."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"API keys file {path} cannot be read: {type(error).__name__}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    keys = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not keys:
        raise InvalidInput(f"API keys file {path} has no key in it")
    for number, key in keys:
        if len(key) < _MIN_KEY_CHARS:
            raise InvalidInput(
                f"API keys file {path}: the key in line {number} has {len(key)} characters, at least {_MIN_KEY_CHARS} are needed"
            )
    return tuple(key for _, key in keys)


class ApiKeyGate:
    """Lets nobody in without a key. With no keys at all it is open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or not self._digests
            or scope["path"] in OPEN_PATHS
            or self._knows(Headers(scope=scope))
        ):
            await self._app(scope, receive, send)
            return
        error = Unauthorized("no valid API key: send Authorization: Bearer <key> or X-API-Key: <key>")
        await problem_of(error, scope["state"]["request_id"])(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given)
        # Every key is compared, each in constant time: how long it takes says nothing about which one is near.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
