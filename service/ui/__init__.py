"""The web page at `/`: files that are served as they are, with a policy that lets them reach nothing but this
service."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from starlette.responses import Response

from model.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # kept, and asked about by its tag each time: an upgrade is seen at once
}


@router.get("/")
async def page(request: Request) -> Response:
    return _answer(request, "index.html")


@router.get("/ui/{file}")
async def asset(request: Request, file: Annotated[str, InPath(max_length=100)]) -> Response:
    return _answer(request, file)


def _answer(request: Request, name: str) -> Response:
    entry = _files().get(name)
    if entry is None:
        raise NotFound(f"there is no file {name!r:.100}")
    content, tag, media_type = entry
    headers = {**_HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Read content, tag and type of each file once, so that no request can name anything outside the folder."""
    entries = {}
    for path in _FOLDER.iterdir():
        if path.suffix in _TYPES:
            content = path.read_bytes()
            entries[path.name] = content, f'"{hashlib.sha256(content).hexdigest()[:16]}"', _TYPES[path.suffix]
    return entries
