"""What a browser is told: every answer's security headers, who may call from other pages, and /docs without another host."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

Serve = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/docs/start.js", "/info", "/nowhere", "/livez", "/metrics", "/jobs/none"]
)
async def test_every_answer_has_them(served: Any, path: str) -> None:
    headers = (await served.client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    policy = _directives(headers["content-security-policy"])
    assert policy["default-src"] == policy["frame-ancestors"] == {"'none'"}
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*"} & policy.get("script-src", set())
    assert "server" not in headers


async def test_what_the_layers_themselves_answer_has_them_too(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("indexer.catalog.Catalog.all", broken)
    response = await served.client.get("/collections")
    assert response.status_code == 500
    assert response.headers["x-content-type-options"] == "nosniff"


def _directives(policy: str) -> dict[str, set[str]]:
    return {words[0]: set(words[1:]) for part in policy.split(";") if (words := part.split())}


async def test_docs_need_no_other_host(served: Any) -> None:
    page = await served.client.get("/docs")
    policy = _directives(page.headers["content-security-policy"])
    assert policy["script-src"] == {"'self'"}
    assert not any("://" in source for sources in policy.values() for source in sources)
    assert "http" not in page.text
    assert not re.search(r"<script>|\son\w+=", page.text), "no inline script, which the policy forbids"
    references = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(references) == 3
    for reference in references:
        file = await served.client.get(f"/{reference}")
        assert file.status_code == 200
        kind = "text/css" if reference.endswith(".css") else "text/javascript"
        assert file.headers["content-type"].partition(";")[0] == kind, "nosniff: any other is not run"
        assert len(file.text) > 100
    assert "SwaggerUIBundle" in (await served.client.get("/docs/swagger-ui-bundle.js")).text
    assert (await served.client.get("/openapi.json")).json()["info"]["title"] == "ret2"


async def _preflight(served: Any, origin: str) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    response: httpx.Response = await served.client.options("/search", headers=headers)
    return response


async def test_other_pages_are_kept_out(served: Any) -> None:
    assert "access-control-allow-origin" not in (await _preflight(served, "https://a.example")).headers
    answer = await served.client.get("/info", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_named_origins_may_call(serve: Serve) -> None:
    served = await serve(cors_origins="https://a.example,https://b.example:8443")
    for origin, allowed in (
        ("https://a.example", True),
        ("https://b.example:8443", True),
        ("https://c.example", False),
    ):
        asked = await _preflight(served, origin)
        assert (asked.status_code == 200) == allowed
        answer = await served.client.get("/info", headers={"origin": origin})
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert "access-control-allow-credentials" not in answer.headers


async def test_pages_of_others_change_nothing(serve: Serve) -> None:
    """A POST without a body is sent by a browser for any page, without asking first."""
    served = await serve(cors_origins="https://a.example")

    async def status(method: str = "POST", **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await served.client.request(
            method, "/jobs/none/cancel" if method == "POST" else "/jobs", headers=named
        )
        if answer.status_code == 403:
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.json()["code"], "RET2_CORS_ORIGINS" in answer.json()["detail"]) == ("forbidden", True)
        return int(answer.status_code)

    for site in ("cross-site", "same-site"):
        assert await status(sec_fetch_site=site) == 403
        assert await status(sec_fetch_site=site, origin="https://b.example") == 403
        assert await status(sec_fetch_site=site, origin="null") == 403
        assert await status(sec_fetch_site=site, origin="https://a.example") == 404, (
            "it came through: there is no such job"
        )
        assert await status("GET", sec_fetch_site=site) == 200
    for own in ({}, {"sec_fetch_site": "same-origin"}, {"sec_fetch_site": "none"}, {"origin": "https://b.example"}):
        assert await status(**own) == 404


async def test_where_everybody_may_call_pages_of_others_may_too(serve: Serve) -> None:
    served = await serve(cors_origins="*")
    headers = {"sec-fetch-site": "cross-site", "origin": "https://b.example"}
    assert (await served.client.post("/jobs/none/cancel", headers=headers)).status_code == 404
