"""Bounds on a request before anything reads it: how many at once, how many open streams, how long a body, all
bodies."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from enum import StrEnum

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import BodyTooSlow, Overloaded, RetrievalError, TooLarge
from service.http.problems import problem_of
from service.http.settings import HttpBounds

NDJSON = "application/x-ndjson"

# Asked by machines that must have an answer whatever else is going on.
PROBES = frozenset({"/livez", "/readyz", "/metrics"})

_PROGRESS_BYTES = 1024
_DOCUMENTS = re.compile(r"/collections/[^/]+/documents")
# The calls whose bodies may be streams.
_STREAMED = re.compile(rf"{_DOCUMENTS.pattern}(/update)?")
# The calls whose bodies may hold images.
_WITH_IMAGES = re.compile(rf"/search(/.*)?|/encode|/v\d/.*|{_DOCUMENTS.pattern}(/.*)?")
_EVENTS = re.compile(r"/jobs/[^/]+/events")


class RequestKind(StrEnum):
    """Requests of one kind take no place from those of another: a stream is open for as long as its job or its sender
    likes."""

    PLAIN = "requests"
    EVENTS = "event streams"
    DOCUMENTS = "document streams"


def kind_of(scope: Scope) -> RequestKind:
    """Return the kind of a request. Only a post of documents or updates streams its body: everything else is read
    whole."""
    if _EVENTS.fullmatch(scope["path"]) and scope["method"] == "GET":
        return RequestKind.EVENTS
    posts = scope["method"] == "POST" and _STREAMED.fullmatch(scope["path"]) is not None
    return RequestKind.DOCUMENTS if posts and media_type(Headers(scope=scope)) == NDJSON else RequestKind.PLAIN


class Places:
    """The places of requests being answered, so many for each kind."""

    def __init__(self, bounds: HttpBounds) -> None:
        self._most = {
            RequestKind.PLAIN: bounds.max_requests_in_flight,
            RequestKind.EVENTS: bounds.max_event_streams,
            RequestKind.DOCUMENTS: bounds.max_document_streams,
        }
        self.taken: Counter[RequestKind] = Counter()

    def full(self, kind: RequestKind) -> bool:
        return self.taken[kind] >= self._most[kind]

    def refusal(self, kind: RequestKind) -> Overloaded:
        return Overloaded(f"{self.taken[kind]} {kind} are being answered, which is the limit")


class RequestLimits:
    """Refuses a request over the number of its kind in flight or over the bytes of all bodies held (429), and a body
    over its own limit (413).

    A body counts as held as it comes in, until the request is answered: what was only announced takes no place from
    others. A stream of documents is written away line by line; of it the line that is not complete counts.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        bounds: HttpBounds,
        places: Places | None = None,
    ) -> None:
        self._app, self.bounds = app, bounds
        self._max_json_bytes = min(bounds.max_json_bytes, bounds.max_body_bytes)
        self._places = places or Places(bounds)
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        kind = kind_of(scope)
        stream = kind is RequestKind.DOCUMENTS
        limit = self._body_limit(scope, stream)
        body = _Body(self, receive, limit=limit, counted=not stream, timeout_s=self.bounds.body_timeout_s)
        try:
            if self._places.full(kind):
                raise self._places.refusal(kind)
            declared = Headers(scope=scope).get("content-length", "")
            if declared.isdecimal():
                body.expect(int(declared))
        except RetrievalError as error:
            await problem_of(error, scope["state"]["request_id"])(scope, receive, send)
            return
        self._places.taken[kind] += 1
        try:
            await self._app(scope, body, send)
        finally:
            self._places.taken[kind] -= 1
            self._bodies_bytes -= body.held_bytes

    def _body_limit(self, scope: Scope, stream: bool) -> int:
        if stream:
            return self.bounds.max_stream_bytes
        return self.bounds.max_body_bytes if _WITH_IMAGES.fullmatch(scope["path"]) else self._max_json_bytes

    def hold(self, more_bytes: int) -> None:
        self.check(more_bytes)
        self._bodies_bytes += more_bytes

    def check(self, more_bytes: int) -> None:
        if self._bodies_bytes + more_bytes > self.bounds.max_bodies_bytes:
            raise Overloaded(
                f"the bodies of requests being answered have {self._bodies_bytes} bytes; with {more_bytes} more they "
                f"would be over the limit of {self.bounds.max_bodies_bytes}"
            )


class _Body:
    """`receive` that stops at the limits, for bodies that do not say how long they are too."""

    def __init__(self, limits: RequestLimits, receive: Receive, *, limit: int, counted: bool, timeout_s: float) -> None:
        self._limits = limits
        self._receive = receive
        self._line_bytes = 0
        self._limit = limit
        self._counts_all = counted
        self._timeout_s = timeout_s
        self._clock = asyncio.get_running_loop().time
        self._more = True
        self._waited_s = 0.0
        self._since_progress = 0
        self._seen = 0
        self.held_bytes = 0

    async def __call__(self) -> Message:
        message = await self._next_message() if self._more else await self._receive()
        self._more = bool(message.get("more_body"))
        body = message.get("body", b"")
        self._seen += len(body)
        self.grow_to(self._seen)
        if not self._counts_all:
            newline = body.rfind(b"\n")
            self._line_bytes = self._line_bytes + len(body) if newline < 0 else len(body) - newline - 1
            self._hold(min(self._line_bytes, self._limits.bounds.max_body_bytes))
        return message

    async def _next_message(self) -> Message:
        """Return the next part of the body. The time that its reader takes in between does not count."""
        began = self._clock()
        try:
            async with asyncio.timeout(self._timeout_s - self._waited_s):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTooSlow(
                f"less than {_PROGRESS_BYTES} bytes of the body came within {self._timeout_s:g} s",
                field="body",
                limit=self._timeout_s,
            ) from error
        self._waited_s += self._clock() - began
        self._since_progress += len(message.get("body", b""))
        if self._since_progress >= _PROGRESS_BYTES:
            self._since_progress, self._waited_s = 0, 0.0
        return message

    def expect(self, size_bytes: int) -> None:
        if size_bytes > self._limit:
            raise too_large(size_bytes, self._limit)
        if self._counts_all:
            self._limits.check(size_bytes)

    def grow_to(self, size_bytes: int) -> None:
        if size_bytes > self._limit:
            raise too_large(size_bytes, self._limit)
        if self._counts_all:
            self._hold(size_bytes)

    def _hold(self, size_bytes: int) -> None:
        self._limits.hold(size_bytes - self.held_bytes)
        self.held_bytes = size_bytes


def too_large(size_bytes: int, limit: int) -> TooLarge:
    return TooLarge(
        f"the body has at least {size_bytes} bytes, limit is {limit}", field="body", value=size_bytes, limit=limit
    )


def media_type(headers: Headers) -> str:
    """Return the content type without its parameters, empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
