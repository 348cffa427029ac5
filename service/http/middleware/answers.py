"""The bytes of all answers together: a large one is held while it is written and until its caller has read it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import Overloaded
from service.http.middleware.limits import PROBES
from service.http.problems import problem_of

# Smaller answers are not counted: as many as there may be requests, they are some 32 MiB together.
_SMALL_BYTES = 128 * 1024
# Handed to the connection at once. It takes the next piece when its caller has read most of this one.
_PIECE_BYTES = 1024 * 1024


class AnswerLimits:
    """Refuses an answer that would take the answers of this process over their bytes (429), and sends a large one
    piece by piece, so that what a slow caller has not read counts until it has."""

    def __init__(self, app: ASGIApp, *, max_answers_bytes: int) -> None:
        self._app = app
        self._max_answers_bytes = max_answers_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        share = scope["state"]["answer"] = AnswerShare(self)
        try:
            await self._app(scope, receive, _Sender(scope, receive, send, share))
        finally:
            self._held_bytes -= share.held_bytes

    def hold(self, more_bytes: int) -> None:
        """Add to the bytes that are held. Raises `Overloaded`."""
        if self._held_bytes + more_bytes > self._max_answers_bytes:
            raise Overloaded(
                f"the answers being written and read have {self._held_bytes} bytes; with {more_bytes} more they would "
                f"be over the limit of {self._max_answers_bytes}"
            )
        self._held_bytes += more_bytes


class AnswerShare:
    """The bytes of one answer. Whoever builds it of several parts counts them as they are written."""

    def __init__(self, limits: AnswerLimits) -> None:
        self._limits = limits
        self.held_bytes = 0

    def grow_to(self, size_bytes: int) -> None:
        """Grow to this size. Raises `Overloaded` if all answers together would be over their limit."""
        if size_bytes > max(self.held_bytes, _SMALL_BYTES):
            self._limits.hold(size_bytes - self.held_bytes)
            self.held_bytes = size_bytes


class _Sender:
    """`send` that holds the head of an answer back until it is known whether there is room for its body."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, share: AnswerShare) -> None:
        self._scope, self._receive, self._send, self._share = scope, receive, send, share
        self._head: Message | None = None
        self._refused = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif not self._refused:
            await self._body(message)

    async def _body(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if self._head is not None:
            head, self._head = self._head, None
            try:
                self._share.grow_to(len(body))
            except Overloaded as error:
                self._refused = True
                await problem_of(error, self._scope["state"]["request_id"])(self._scope, self._receive, self._send)
                return
            await self._send(head)
        start = 0
        while len(body) - start > _PIECE_BYTES:
            piece = body[start : start + _PIECE_BYTES]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            start += _PIECE_BYTES
        await self._send({**message, "body": body[start:] if start else body})
