"""Who may do what: every call has its scopes in one table, keys and collections are looked at before anything else happens."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry
from request_state import WithState
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.api.app import create_app
from service.encoder.app import create_encoder_app
from service.http.middleware.api_keys import ADMIN, ANY, OPEN, SCOPES, SEARCH, WRITE, ApiKeyGate
from service.keys import Key, KeyFile, KeyScope, line_of
from service.observability.metrics import Metrics
from service.settings import Settings

TABLE = {
    "GET /livez": OPEN,
    "GET /collections": ANY,
    "POST /search": SEARCH,
    "POST /collections/{name}/documents": WRITE,
    "GET /collections/{name}/documents/{id}": SEARCH,
    "DELETE /collections/{name}": ADMIN,
    "POST /jobs/{id}/cancel": WRITE | ADMIN,
}
SECRETS = {scope: f"0123456789abcdef-{scope}" for scope in KeyScope}
OF_SHOP = "0123456789abcdef-shop"


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    lines = [line_of(secret, Key(f"{scope}er", frozenset({scope}))) for scope, secret in SECRETS.items()]
    lines.append(line_of(OF_SHOP, Key("shop", frozenset({KeyScope.SEARCH, KeyScope.WRITE}), ("shop-",))))
    (tmp_path / "keys").write_text("\n".join(lines))
    return KeyFile(tmp_path / "keys")


async def ask(
    call: str, keys: KeyFile | None, secret: str | None = None, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    async def ok(_request: object) -> PlainTextResponse:
        return PlainTextResponse("ok")

    routes = [Route("/{path:path}", ok, methods=["GET", "POST", "DELETE"])]
    app = Starlette(routes=routes, middleware=[Middleware(WithState), Middleware(ApiKeyGate, keys=keys, scopes=TABLE)])
    method, path = call.split()
    given = {"x-api-key": secret} if secret else headers or {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.request(method, path, headers=given)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {OF_SHOP}"},
        {"authorization": f"bearer {OF_SHOP}"},
        {"x-api-key": OF_SHOP},
    ],
)
async def test_a_known_key_opens(keys: KeyFile, headers: dict[str, str]) -> None:
    assert (await ask("POST /search", keys, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {OF_SHOP}x"},
        {"authorization": f"Basic {OF_SHOP}"},
        {"x-api-key": ""},
        {"x-api-key": OF_SHOP[:-1]},
    ],
)
@pytest.mark.parametrize("call", ["POST /search", "GET /collections", "GET /nowhere"])
async def test_anything_else_does_not(keys: KeyFile, call: str, headers: dict[str, str]) -> None:
    response = await ask(call, keys, headers=headers)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == "unauthorized"
    assert OF_SHOP not in response.text


@pytest.mark.parametrize(
    ("call", "scopes"),
    [
        ("GET /collections", {"search", "write", "admin"}),
        ("POST /search", {"search"}),
        ("POST /collections/flags/documents", {"write"}),
        ("DELETE /collections/flags", {"admin"}),
        ("POST /jobs/1/cancel", {"write", "admin"}),
        ("GET /collections/flags/documents/a", {"search"}),
        ("HEAD /collections/flags/documents/a", {"search"}),
    ],
)
async def test_a_key_does_what_its_scope_says(keys: KeyFile, call: str, scopes: set[str]) -> None:
    for scope, secret in SECRETS.items():
        response = await ask(call, keys, secret)
        assert response.status_code == (200 if scope in scopes else 403), scope
        if response.status_code == 403 and not call.startswith("HEAD"):
            problem = response.json()
            assert problem["code"] == "forbidden"
            assert " or ".join(one for one in KeyScope if one in scopes) in problem["detail"]


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("POST /collections/shop-1/documents", 200),
        ("POST /collections/other/documents", 403),
        ("GET /collections/shop/documents/a", 403),
        ("GET /collections/shop-1/documents/a", 200),
    ],
)
async def test_a_key_is_for_its_collections(keys: KeyFile, call: str, status: int) -> None:
    response = await ask(call, keys, OF_SHOP)
    assert response.status_code == status
    if status == 403:
        assert "shop-*" in response.json()["detail"]


async def test_a_call_without_a_row_is_closed(keys: KeyFile) -> None:
    """Even where a route is behind it."""
    assert (await ask("GET /forgotten", keys, SECRETS[KeyScope.SEARCH])).status_code == 404
    assert (await ask("DELETE /search", keys, SECRETS[KeyScope.WRITE])).status_code == 404
    assert (await ask("GET /forgotten", keys, SECRETS[KeyScope.ADMIN])).status_code == 200


async def test_probes_are_open(keys: KeyFile) -> None:
    assert (await ask("GET /livez", keys)).status_code == 200


async def test_no_keys_no_gate() -> None:
    assert (await ask("DELETE /collections/flags", None)).status_code == 200


# --- the table and the application


def calls_of(app: Any) -> Iterator[str]:
    """Every method and path that the application answers, those behind included routers and without a schema too."""

    def walk(routes: Any) -> Iterator[Any]:
        for route in routes:
            if hasattr(route, "effective_route_contexts"):
                yield from route.effective_route_contexts()
            else:
                yield route

    for route in walk(app.routes):
        assert getattr(route, "methods", None), f"{route!r}: give it a row of its own kind in the table"
        yield from (f"{method} {route.path}" for method in route.methods if method not in ("HEAD", "OPTIONS"))


def applications() -> list[Any]:
    """Declaring routes needs no running parts."""
    parts: Any = SimpleNamespace(
        settings=Settings(), metrics=Metrics(CollectorRegistry()), encoders=None, fetcher=None, api_keys=None
    )
    return [create_app(parts), create_encoder_app(parts)]


@pytest.mark.parametrize("app", applications(), ids=["api", "encoder"])
def test_every_call_has_its_scopes(app: Any) -> None:
    """A new route fails here until `SCOPES` says who may call it."""
    calls = set(calls_of(app))
    assert "POST /encode" in calls
    assert "GET /" in calls, "what has no schema is among them"
    assert calls - set(SCOPES) == set()


def test_the_table_has_nothing_that_is_not_there() -> None:
    assert set(SCOPES) - set(calls_of(applications()[0])) == set()


@pytest.mark.parametrize("call", sorted(call for call, scopes in SCOPES.items() if scopes == OPEN))
def test_what_is_open_reads_nothing_of_anybody(call: str) -> None:
    assert call.startswith("GET /")
    assert not call.startswith(("GET /collections", "GET /jobs"))


# --- the audit log


async def audit(call: str, keys: KeyFile | None, secret: str | None) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as logs:
        await ask(call, keys, secret)
    return [
        {name: event[name] for name in ("key", "action", "collection", "job", "status", "outcome")}
        for event in logs
        if event["event"] == "audit"
    ]


async def test_writes_and_admin_calls_are_written_down(keys: KeyFile) -> None:
    row = {"key": "writeer", "action": "POST /collections/{name}/documents", "collection": "flags", "job": None}
    write = "POST /collections/flags/documents"
    assert await audit(write, keys, SECRETS[KeyScope.WRITE]) == [{**row, "status": 200, "outcome": "done"}]
    assert await audit(write, keys, SECRETS[KeyScope.SEARCH]) == [
        {**row, "key": "searcher", "status": 403, "outcome": "refused"}
    ]
    assert await audit(write, keys, None) == [{**row, "key": None, "status": 401, "outcome": "refused"}]
    cancel = {"key": "adminer", "action": "POST /jobs/{id}/cancel", "collection": None, "job": "7"}
    assert await audit("POST /jobs/7/cancel", keys, SECRETS[KeyScope.ADMIN]) == [
        {**cancel, "status": 200, "outcome": "done"}
    ]
    assert [one["key"] for one in await audit("DELETE /collections/flags", None, None)] == ["anonymous"]


@pytest.mark.parametrize("call", ["POST /search", "GET /collections", "GET /livez", "GET /nowhere"])
async def test_searches_and_reads_are_not(keys: KeyFile, call: str) -> None:
    assert await audit(call, keys, SECRETS[KeyScope.SEARCH]) == []
