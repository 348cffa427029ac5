"""Every answer that a test of the whole application gets is read by the model that its route declares.

What the model read must be the answer: no field is missing, unknown or of another type.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service.schemas.jobs import JobOut
from service.schemas.operations import Problem

EVENTS = "/jobs/{id}/events"


def checking(app: FastAPI) -> dict[str, list[Callable[[httpx.Response], Awaitable[None]]]]:
    """Return the event hooks of a client of the application."""

    async def check(response: httpx.Response) -> None:
        if response.headers.get("content-type", "").startswith(("application/json", "application/problem+json")):
            await response.aread()
            check_answer(app, response)

    return {"response": [check]}


def check_answer(app: FastAPI, response: httpx.Response) -> str | None:
    """Return the call that was checked, `GET /jobs`; None where its answer has no model or, as to HEAD, no body."""
    if response.request.method == "HEAD":
        return None
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        _check(Problem, response.text)
        return None
    route = _route_of(app, response.request)
    if route is None or not response.is_success:
        return None
    model = JobOut if route.path == EVENTS else _model(route, response.status_code)
    if model is None:
        return None
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    for text in [line.removeprefix("data: ") for line in lines] or [response.text]:
        _check(model, text)
    return f"{response.request.method} {route.path}"


def _check(model: Any, text: str) -> None:
    read: BaseModel = model.model_validate_json(text, strict=True)
    assert read.model_dump(mode="json", exclude_unset=True, by_alias=True) == json.loads(text), model.__name__


def _model(route: APIRoute, status: int) -> Any:
    """Return the model of a status: the route's own, unless it declares another for it."""
    declared = route.responses.get(status, {}).get("model")
    return declared or route.response_model


def _route_of(app: FastAPI, request: httpx.Request) -> APIRoute | None:
    # As it was sent: a slash inside an id is written %2F, which no pattern takes for a slash.
    path = request.url.raw_path.decode().partition("?")[0]
    return next(
        (route for route in api_routes(app.routes) if request.method in route.methods and route.path_regex.match(path)),
        None,
    )


def api_routes(routes: Iterable[Any]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from api_routes(route.original_router.routes)
