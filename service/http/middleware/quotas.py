"""The quotas of an API key: requests per second with a burst, and requests at once.

Each process counts for itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import Overloaded, RateLimited
from service.http.middleware.limits import PROBES, RequestKind, kind_of
from service.http.problems import problem_of
from service.http.settings import QuotaSettings
from service.keys import Key


class Bucket:
    """A token bucket: full at first, refilled evenly; what is refused takes nothing."""

    def __init__(self, settings: QuotaSettings, now: float) -> None:
        self._settings, self._tokens, self._at = settings, settings.capacity, now

    def take(self, now: float) -> float:
        """Take a token. Return 0, or the seconds until there is one."""
        rate = self._settings.requests_per_s
        if rate is None:
            return 0.0
        self._tokens = min(self._settings.capacity, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / rate
        self._tokens -= 1
        return 0.0


@dataclass(slots=True)
class _Use:
    bucket: Bucket
    in_flight: Counter[RequestKind] = field(default_factory=Counter)


class KeyQuotas:
    """Keys of one name share; so do all callers where there are no keys. Probes are not counted, nor who has no key to
    an open page."""

    def __init__(self, app: ASGIApp, settings: QuotaSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._settings, self._clock = app, settings, clock
        self._limits = {
            RequestKind.PLAIN: settings.in_flight,
            RequestKind.EVENTS: settings.event_streams,
            RequestKind.DOCUMENTS: settings.document_streams,
        }
        self._uses: dict[str, _Use] = {}  # by name: no more than the file of keys has had

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key: Key | None = scope["state"]["key"] if scope["type"] == "http" else None
        if key is None or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        now = self._clock()
        use = self._uses.setdefault(key.name, _Use(Bucket(self._settings, now)))
        kind = kind_of(scope)
        if error := self._refusal(key, use, kind, now):
            await problem_of(error, scope["state"]["request_id"])(scope, receive, send)
            return
        use.in_flight[kind] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            use.in_flight[kind] -= 1

    def _refusal(self, key: Key, use: _Use, kind: RequestKind, now: float) -> Overloaded | None:
        limit, in_flight = self._limits[kind], use.in_flight[kind]
        if limit is not None and in_flight >= limit:
            return RateLimited(f"{in_flight} {kind} of key {key.name!r} are being answered, which is its limit")
        if wait_s := use.bucket.take(now):
            rate = self._settings.requests_per_s
            return RateLimited(f"key {key.name!r} is over its {rate:g} requests per second", retry_after_s=wait_s)
        return None
