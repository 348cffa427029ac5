"""Refusals of searches and encodings while all places are taken, written before anything else looks at the request.

The layers of the application take several times as long, and a crowd that is refused would slow down whom it waits for
(docs/decisions/openvino-on-a-cpu.md). Only a request that is whole, plain and alone in its connection is refused here;
any other, and a traced one, goes the long way and is refused there.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Sequence

import structlog

from model.errors import Overloaded
from service.http.middleware.limits import Places, RequestKind
from service.http.middleware.request_log import REQUEST_ID
from service.http.middleware.security_headers import PRIVATE_HEADERS
from service.http.problems import problem_of
from service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

Headers = Sequence[tuple[bytes, bytes]]

# Token characters before each colon, and no control characters behind it: what h11 would refuse is left to it.
_HEAD = re.compile(
    rb"POST (/encode|/search|/search/batch) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
)
# Headers that say where a request ends, change the answer, or have it traced.
_SPECIAL = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"origin", b"traceparent"))
# As many digits as h11 reads.
_LENGTH = re.compile(rb"[0-9]{1,20}")
_LOG_EVERY_S = 1.0


class Refusals:
    """Belongs to the event loop. One line of the log counts the refusals of a second."""

    def __init__(self, places: Places, metrics: Metrics) -> None:
        self._places, self._metrics = places, metrics
        self._unlogged = 0

    def answer(self, data: bytes, default_headers: Headers) -> bytes | None:
        """Return the answer to a request that is refused, None if it is for the application to answer."""
        if not self._places.full(RequestKind.PLAIN):
            return None
        began = time.perf_counter()
        head = _HEAD.match(data)
        fields = _fields(head[2]) if head else None
        if head is None or fields is None or len(data) - head.end() != int(fields[b"content-length"]):
            return None
        sent_id = fields.get(b"x-request-id", b"").decode("latin-1")
        request_id = sent_id if REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex
        self._count(head[1].decode(), time.perf_counter() - began)
        return _written(self._places.refusal(RequestKind.PLAIN), request_id, default_headers)

    def _count(self, route: str, seconds: float) -> None:
        self._metrics.requests.labels(route, "POST", Overloaded.status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if not self._unlogged:
            asyncio.get_running_loop().call_later(_LOG_EVERY_S, self._log)
        self._unlogged += 1

    def _log(self) -> None:
        log.info("requests refused", status=Overloaded.status, count=self._unlogged, seconds=_LOG_EVERY_S)
        self._unlogged = 0


def _fields(lines: bytes) -> dict[bytes, bytes] | None:
    """Return the headers by their names in lower case, None if they are not those of a plain request."""
    fields: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in fields or name in _SPECIAL or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
        fields[name] = value
    if b"host" not in fields or not _LENGTH.fullmatch(fields.get(b"content-length", b"")):
        return None
    return fields


def _written(error: Overloaded, request_id: str, default_headers: Headers) -> bytes:
    """Return the answer as the layers of the application would write it."""
    problem = problem_of(error, request_id)
    headers = (*default_headers, *problem.raw_headers, (b"x-request-id", request_id.encode()), *PRIVATE_HEADERS)
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"HTTP/1.1 429 Too Many Requests\r\n%s\r\n%s" % (lines, problem.body)
