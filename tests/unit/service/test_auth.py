"""API keys: read strictly, compared blindly, never shown."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import InvalidInput
from service.auth import ApiKeyGate, read_keys

KEY = "0123456789abcdef-first"
OTHER = "0123456789abcdef-second"


class WithState:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"request_id": "id-1"}
        await self._app(scope, receive, send)


async def ask(path: str, headers: dict[str, str], keys: tuple[str, ...] = (KEY, OTHER)) -> httpx.Response:
    async def ok(_request: object) -> PlainTextResponse:
        return PlainTextResponse("ok")

    routes = [Route(one, ok) for one in ("/search", "/livez", "/readyz", "/metrics")]
    app = Starlette(routes=routes, middleware=[Middleware(WithState), Middleware(ApiKeyGate, keys=keys)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {OTHER}"}, {"x-api-key": KEY}]
)
async def test_a_known_key_opens(headers: dict[str, str]) -> None:
    assert (await ask("/search", headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Basic {KEY}"},
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
    ],
)
async def test_anything_else_does_not(headers: dict[str, str]) -> None:
    response = await ask("/search", headers)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == "unauthorized"
    assert KEY not in response.text


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_are_open(path: str) -> None:
    assert (await ask(path, {})).status_code == 200


async def test_no_keys_no_gate() -> None:
    assert (await ask("/search", {}, keys=())).status_code == 200


def test_keys_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n  {OTHER}  \n")
    assert read_keys(file) == (KEY, OTHER)


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n"])
def test_unsafe_keys_files(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(InvalidInput) as refused:
        read_keys(file)
    assert "short" not in str(refused.value).replace(str(tmp_path), "")


def test_missing_keys_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_keys(tmp_path / "none")
