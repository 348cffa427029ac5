"""The load generator, a process of its own so that it shares no interpreter with a server: `python -m benchmarks.load SPEC.json`.

Closed loop: so many connections, each sends the next request when the last is answered. Open loop: requests leave when the schedule says,
answered or not, and latency counts from that moment. It speaks just enough HTTP/1.1, in uvloop's event loop, to cost the machine next to
nothing, and is the same for every server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.figures import percentile

_REPOSITORY = Path(__file__).parents[1]
_GIVE_UP_S = 120.0  # one request; a server that takes longer has lost it
_STAGE = re.compile(r"(\w+);dur=([\d.]+)")
BROKEN = 0  # the "status" of a request that got no answer
_AFTER_BROKEN_S = 0.05  # so that a server that is gone is not asked in a tight loop


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: when it left (or should have) and how long it took, in seconds since the run began, the HTTP status, and the header
    `Server-Timing` if it had one."""

    sent_s: float
    latency_s: float
    status: int
    timing: str = ""

    @property
    def done_s(self) -> float:
        return self.sent_s + self.latency_s


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the generator saw. `rate` is answered requests a second: status 200 alone."""

    rate: float
    answered: tuple[Answered, ...]

    @property
    def failed(self) -> int:
        return sum(one.status != 200 for one in self.answered)

    def latency_ms(self, share: float) -> float:
        """Of those answered with 200."""
        return percentile([one.latency_s * 1e3 for one in self.answered if one.status == 200], share)

    def slowest_ms(self, share: float) -> dict[str, float]:
        """Where that share of the answers with 200, the slowest, spent its time: means of each stage that the server names, and `rest`,
        the difference to the whole: HTTP, JSON, and waiting for a turn."""
        good = sorted((one for one in self.answered if one.status == 200), key=lambda one: one.latency_s, reverse=True)
        slowest = good[: math.ceil(len(good) * share)]
        parts: defaultdict[str, float] = defaultdict(float)
        for one in slowest:
            stages = {name: float(ms) for name, ms in _STAGE.findall(one.timing) if name != "total"}
            for name, ms in {**stages, "rest": one.latency_s * 1e3 - sum(stages.values())}.items():
                parts[name] += ms / len(slowest)
        return dict(parts)

    def percentiles(self) -> str:
        return "p50/p95/p99 " + "/".join(f"{self.latency_ms(share):.0f}" for share in (50, 95, 99)) + " ms"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what is in them: each body in turn."""

    url: str
    bodies: Sequence[bytes]


def closed_loop(target: Target, connections: int, seconds: float, warm_up_s: float) -> Run:
    """Throughput is added up over connections, each over the whole requests between its first answer after `warm_up_s` and its first
    after `seconds` more: batches that finish together then do not round the figure."""
    return _generate(target, {"connections": connections, "seconds": seconds, "warm_up_s": warm_up_s})


def open_loop(target: Target, per_second: float, seconds: float, warm_up_s: float) -> Run:
    """Figures are of the requests scheduled in the `seconds` after `warm_up_s`; the rate is of answers that came in that time."""
    return _generate(target, {"per_second": per_second, "seconds": seconds, "warm_up_s": warm_up_s})


def arrivals(per_second: float, seconds: float, seed: int = 0) -> list[float]:
    """Moments of a Poisson process: independent callers, not a metronome."""
    draw = random.Random(seed)
    moments, now = [], draw.expovariate(per_second)
    while now < seconds:
        moments.append(now)
        now += draw.expovariate(per_second)
    return moments


def _generate(target: Target, shape: dict[str, float]) -> Run:
    with tempfile.TemporaryDirectory(prefix="ret2-load-") as scratch:
        bodies, spec, result = (Path(scratch) / name for name in ("bodies", "spec.json", "result.json"))
        bodies.write_bytes(b"\n".join(target.bodies))  # JSON holds no newline
        spec.write_text(json.dumps({"url": target.url, "bodies": str(bodies), "result": str(result), **shape}))
        subprocess.run([sys.executable, "-m", "benchmarks.load", str(spec)], cwd=_REPOSITORY, check=True)
        found = json.loads(result.read_text())
    return Run(found["rate"], tuple(Answered(**one) for one in found["answered"]))


# --- in the generator's process


def main(spec: dict[str, Any]) -> None:
    bodies = Path(spec["bodies"]).read_bytes().split(b"\n")
    requests = itertools.cycle([_request(spec["url"], body) for body in bodies])
    where = urlsplit(spec["url"])
    door = Door(str(where.hostname), where.port or 80)
    if "per_second" in spec:
        work = _open(door, requests, spec["per_second"], spec["seconds"], spec["warm_up_s"])
    else:
        work = _closed(door, requests, spec["connections"], spec["seconds"], spec["warm_up_s"])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(work)
    Path(spec["result"]).write_text(json.dumps(asdict(run)))


def _request(url: str, body: bytes) -> bytes:
    where = urlsplit(url)
    head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Door:
    """Connections to one server, kept open and used again."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[Connection] = []

    async def post(self, request: bytes) -> tuple[int, str]:
        """The status, `BROKEN` if there was no answer, and `Server-Timing`."""
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                return await self._post(request)
        except (OSError, ValueError, TimeoutError):
            return BROKEN, ""

    async def _post(self, request: bytes) -> tuple[int, str]:
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
        try:
            status, timing, keep = await connection.post(request)
        except BaseException:
            connection.close()
            raise
        if keep:
            self._idle.append(connection)
        else:
            connection.close()
        return status, timing


class Connection(asyncio.Protocol):
    """A connection with one request at a time. The body of an answer is counted and thrown away."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, str, bool]] | None = None
        self._received = bytearray()
        self._head: tuple[int, str, bool] | None = None
        self._missing_bytes = 0

    async def post(self, request: bytes) -> tuple[int, str, bool]:
        """The status, `Server-Timing`, and whether the connection may be used again. Raises `OSError` or `ValueError`."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self._head = None
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            return
        if self._head is None:
            self._received += data
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            try:
                status, timing, keep, length = read_head(bytes(self._received[:end]))
            except ValueError as error:
                self._answer.set_exception(error)
                return
            self._head = status, timing, keep
            self._missing_bytes = length - (len(self._received) - end - 4)
        else:
            self._missing_bytes -= len(data)
        if self._missing_bytes <= 0:
            self._answer.set_result(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server has closed the connection"))


def read_head(head: bytes) -> tuple[int, str, bool, int]:
    """The status, `Server-Timing`, whether the connection may be used again, and how many bytes the body has."""
    first, *lines = head.lower().split(b"\r\n")
    fields = dict(line.split(b":", 1) for line in lines)
    if b"content-length" not in fields:
        raise ValueError("an answer without Content-Length")
    keep = fields.get(b"connection", b"").strip() != b"close"
    timing = fields.get(b"server-timing", b"").strip().decode()
    return int(first.split()[1]), timing, keep, int(fields[b"content-length"])


async def _closed(door: Door, requests: Iterator[bytes], connections: int, seconds: float, warm_up_s: float) -> Run:
    began = time.perf_counter()

    async def one_connection() -> tuple[float, list[Answered]]:
        counted: list[Answered] = []
        first = 0.0
        while True:
            sent = time.perf_counter() - began
            status, timing = await door.post(next(requests))
            done = time.perf_counter() - began
            if status == BROKEN:
                await asyncio.sleep(_AFTER_BROKEN_S)
            if first:
                counted.append(Answered(sent, done - sent, status, timing))
                if done >= warm_up_s + seconds:
                    good = sum(one.status == 200 for one in counted)
                    return good / (done - first), counted
            elif done >= warm_up_s:
                first = done

    found = await asyncio.gather(*(one_connection() for _ in range(connections)))
    return Run(sum(rate for rate, _ in found), tuple(one for _, counted in found for one in counted))


async def _open(door: Door, requests: Iterator[bytes], per_second: float, seconds: float, warm_up_s: float) -> Run:
    began = time.perf_counter()

    async def one_request(due: float) -> Answered:
        status, timing = await door.post(next(requests))
        return Answered(due, time.perf_counter() - began - due, status, timing)

    running = []
    for due in arrivals(per_second, warm_up_s + seconds):
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - began)))
        running.append(asyncio.create_task(one_request(due)))
    return summary_of_open(await asyncio.gather(*running), warm_up_s, seconds)


def summary_of_open(answered: Sequence[Answered], warm_up_s: float, seconds: float) -> Run:
    until = warm_up_s + seconds
    good = sum(one.status == 200 and warm_up_s <= one.done_s < until for one in answered)
    return Run(good / seconds, tuple(one for one in answered if warm_up_s <= one.sent_s < until))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
