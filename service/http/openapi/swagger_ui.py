"""The page at /docs: Swagger UI over /openapi.json, with its script and style from this service and no other host."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

from service.http.middleware.security_headers import page_policy

router = APIRouter(include_in_schema=False)

# Swagger UI sets style attributes, and draws its arrows from data URIs.
_POLICY = page_policy(
    "script-src 'self'", "style-src 'self' 'unsafe-inline'", "img-src 'self' data:", "connect-src 'self'"
)
_KEPT = {"cache-control": "public, max-age=86400"}

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ret2: the API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""

# `validatorUrl` would be another host. A key is asked for once and kept in the page alone.
_START = """const key = {value: ""};
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  requestInterceptor: (request) => {
    if (key.value) request.headers["X-API-Key"] = key.value;
    return request;
  },
  responseInterceptor: (response) => {
    if (response.status === 401) key.value = window.prompt("API key, for what you try on this page") || "";
    return response;
  },
});
"""


def _files() -> Path:
    """Return the folder of the package with Swagger UI. The package is located and not imported, because only its files
    are needed."""
    spec = find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"


@router.get("/docs", response_class=HTMLResponse)
async def docs() -> Response:
    return HTMLResponse(_PAGE, headers={"content-security-policy": _POLICY})


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(_START, media_type="text/javascript")


@router.get("/docs/swagger-ui-bundle.js")
async def script() -> Response:
    return FileResponse(_files() / "swagger-ui-bundle.js", media_type="text/javascript", headers=_KEPT)


@router.get("/docs/swagger-ui.css")
async def style() -> Response:
    return FileResponse(_files() / "swagger-ui.css", media_type="text/css", headers=_KEPT)
