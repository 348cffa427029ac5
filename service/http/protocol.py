"""HTTP/1.1 as every port of this project speaks it: no upgrades, deadlines for slow callers, and errors as problems.

uvicorn's h11 protocol reads the body of a request that offers an upgrade; its httptools protocol takes that body for
the next request of the connection (docs/decisions/http-parser.md).
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import h11
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.problems import problem
from service.http.refusals import Refusals
from service.http.settings import ConnectionTimeouts

# Longer than proxies keep idle connections, or they send a request into one that is just being closed.
_KEEP_ALIVE_S = 75
_MAX_HEAD_BYTES = 64 * 1024
_IDLE = {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}
# More is written at once, so that a caller who does not read holds up who sends.
_MOST_JOINED_BYTES = 64 * 1024


def server_config(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    grace_s: int = 1,
    timeouts: ConnectionTimeouts | None = None,
) -> uvicorn.Config:
    """Return the configuration of one listening port. An application may have `Refusals` in its state."""
    refusals = getattr(app.state, "refusals", None)
    protocol = partial(Http11, timeouts=timeouts or ConnectionTimeouts(), refusals=refusals)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace_s,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )


class Http11(H11Protocol):
    """One connection.

    It is closed when its caller is too slow with the head of a request, or stops reading an answer.
    """

    def __init__(self, *args: Any, timeouts: ConnectionTimeouts, refusals: Refusals | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timeouts, self._refusals = timeouts, refusals
        self._head_deadline = _Deadline(self.loop)
        self._write_deadline = _Deadline(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", _JoinedWrites(transport, self.loop)))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_deadline.disarm()
        self._write_deadline.disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused(data):
            super().data_received(data)
            self._await_head()

    def _refused(self, data: bytes) -> bool:
        """Refuse a request at once, if it is one to be refused and the connection has no other."""
        unread, _ = self.conn.trailing_data
        if not self._refusals or unread or self.conn.states != _IDLE or self.flow.write_paused:
            return False
        answer = self._refusals.answer(data, self.server_state.default_headers)
        if answer is None:
            return False
        self._head_deadline.disarm()
        self.transport.write(answer)
        # h11 has not seen the request, and waits for the next one as before.
        super().on_response_complete()
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline.arm(self._timeouts.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline.disarm()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; a closed one waits for its caller to read what is left of an answer, so end that
        too."""
        super().timeout_keep_alive_handler()
        self._write_deadline.arm(self._timeouts.write_s, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 could not read, if no answer has begun. Called while h11's exception is being handled."""
        error = sys.exc_info()[1]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = _invalid_http(error if isinstance(error, h11.RemoteProtocolError) else None, msg)
            head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _should_upgrade(self) -> bool:
        """Ignore every upgrade, as RFC 9110 (section 7.8) allows: the request is answered as if it offered none."""
        return False

    def _await_head(self) -> None:
        """Arm the deadline while a request's head is unfinished, or the first one of the connection has not begun."""
        between_requests = self.conn.their_state is h11.IDLE
        if not between_requests or (self.cycle is not None and not self.conn.trailing_data[0]):
            self._head_deadline.disarm()
        elif not self._head_deadline.armed:
            self._head_deadline.arm(self._timeouts.head_s, self.transport.close)


class _JoinedWrites:
    """A transport that writes what is sent in one turn of the event loop together.

    uvicorn sends the head of an answer by itself: one more system call, which wakes the caller for nothing.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > _MOST_JOINED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._size_bytes = 0
        # The caller may have left since.
        if data and not self._transport.is_closing():
            self._transport.write(data)


class _Deadline:
    """A timer that can be armed again and disarmed at any time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed(self) -> bool:
        return self._timer is not None

    def arm(self, delay_s: float, action: Callable[[], object]) -> None:
        self.disarm()
        self._timer = self._loop.call_later(delay_s, action)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _invalid_http(error: h11.RemoteProtocolError | None, message: str) -> Response:
    status = error.error_status_hint if error else 400
    detail = (
        f"The request is not valid HTTP/1.1: {error or message!s:.200}. Percent-encode everything but ASCII in its "
        "first line; "
        f"the first line and the headers have at most {_MAX_HEAD_BYTES} bytes."
    )
    return problem(status, "invalid_http", detail, uuid.uuid4().hex, headers={"connection": "close"})
