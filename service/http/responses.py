"""JSON in and out by orjson: NaN and Infinity are refused on the way in.

And work that ends when nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from model.errors import DependencyUnavailable, TimedOut
from service.http.json_body import check_counts, read_apart, read_json
from service.http.middleware.paths import decoded
from service.http.query_parameters import check_parameters, names_of

T = TypeVar("T")

_DRAIN_SHARE = (
    0.8  # of the time requests have to end: later the server cancels them, and their callers would get a bare 500
)


class StrictRequest(Request):
    """Python's own parser takes NaN and Infinity, which are no JSON and which no store or filter can use."""

    async def json(self) -> Any:
        if not hasattr(self, "_strict_json"):
            settings = self.app.state.process.settings
            body = await read_apart(partial(read_json, max_values=settings.http.max_json_values), await self.body())
            check_counts(body, settings.list_limits)
            self._strict_json = body
        return self._strict_json


class StrictRoute(APIRoute):
    """Reads bodies strictly, decodes what stands in the path, and refuses query parameters that the call does not
    have."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        parameters = names_of(self)

        async def strict(request: Request) -> Response:
            request.scope["path_params"] = decoded(request.path_params)
            check_parameters(request.query_params, parameters)
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


class Json(Response):
    """An answer that is plain data already; numpy vectors are written as they are."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def took(request: Request, timings: Iterable[Mapping[str, float]]) -> None:
    """Record stages for the header `Server-Timing`: of several searches or inputs the slowest of each stage, because
    they ran together. A stage has a name such as `decode_ms`; the total is measured where the header is written."""
    slowest: dict[str, float] = {}
    for stages in timings:
        for name, value in stages.items():
            slowest[name] = max(value, slowest.get(name, 0.0))
    slowest.pop("total_ms", None)
    request.scope["state"]["took"] = slowest


async def answer_within(request: Request, work: Awaitable[T], timeout_s: float) -> T:
    """Return the result of `work`, which is cancelled if the caller hangs up, the time is over, or this process stops.

    Raises `TimedOut`, or `DependencyUnavailable` if another process may still do it in time. The body must have been
    read, because only then does `receive` report that the caller has left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    stopping = asyncio.ensure_future(_drained(request.app.state.process))
    try:
        await asyncio.wait({task, gone, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnect
        if stopping.done():
            raise DependencyUnavailable("this process is stopping, and had no time left for this call")
        raise TimedOut(f"no answer within {timeout_s:g} s", limit=timeout_s)
    finally:
        for waiter in (task, gone, stopping):
            waiter.cancel()
        await asyncio.gather(task, gone, stopping, return_exceptions=True)


async def _drained(process: Any) -> None:
    """Wait until a stopping process (a `probes.Process`, which imports this module) has no more time for requests."""
    await process.draining.wait()
    await asyncio.sleep(process.settings.requests_s * _DRAIN_SHARE)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
