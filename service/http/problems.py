"""Every error as RFC 9457 problem+json: what was wrong, which value, the limit, a code and the request's id. Never
image bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from indexer.domain.validation import Fields, brief, field_errors, shown, summary
from model.errors import (
    InvalidJson,
    RetrievalError,
    UnsupportedMediaType,
)

_SHOWN_JSON_CHARS = 20  # of what stands where JSON was expected
_RETRY_AFTER_S = 1.0
_MAX_RETRY_AFTER_S = 60.0

JSON = "application/json"


def problem(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    errors: Fields | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": brief(detail),
        "code": code,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = errors
    return Response(orjson.dumps(body), status, headers, "application/problem+json")


def problem_of(error: RetrievalError, request_id: str) -> Response:
    headers = {}
    if error.retryable:
        headers["retry-after"] = str(retry_after_s(error))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    errors = None
    if error.field:
        errors = [{"field": shown(error.field), "value": shown(error.value), "limit": shown(error.limit)}]
    return problem(error.status, error.code, error.detail, request_id, errors=errors, headers=headers)


def retry_after_s(error: RetrievalError) -> int:
    """Return whole seconds, as the header needs them, between one and sixty."""
    return math.ceil(min(max(getattr(error, "retry_after_s", _RETRY_AFTER_S), 1.0), _MAX_RETRY_AFTER_S))


def path_sent(scope: Scope) -> str:
    """Return the path as the caller wrote it, with its percent signs: a decoded path may contain control characters."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    text: str = shown(raw.decode("ascii", "backslashreplace"))
    return text


def advice_on(path: str) -> str:
    """Return what may help with a path that there is not."""
    if path.endswith("/"):
        return "; leave out the slash at the end"
    return "; write a slash in an id as %2F" if "/documents/" in path else ""


def not_json(body_part: str, error: json.JSONDecodeError) -> InvalidJson:
    """Return the error with the place, counted in characters from 0, and the text at that place."""
    excerpt = error.doc[error.pos : error.pos + _SHOWN_JSON_CHARS]
    place = f", at character {error.pos}: {excerpt}" if excerpt else ""
    return InvalidJson(f"{body_part} is not JSON: {error.msg}{place}", field="body", value=excerpt or None)


def content_type_error(content_type: str, allowed: Iterable[str]) -> UnsupportedMediaType:
    """Return the error for a wrong content type. Only JSON is accepted, because a web page may send other types to any
    address without asking first."""
    types = " or ".join(allowed)
    detail = f"the body must be sent as content-type {types}, not {shown(content_type or 'none')}"
    return UnsupportedMediaType(detail, field="content-type", value=content_type or None, limit=types)


def error_wire(error: RetrievalError) -> dict[str, Any]:
    """Return the error of one item among others."""
    return {"error": {"code": error.code, "detail": brief(error.detail)}}


def install(app: FastAPI) -> None:
    app.add_exception_handler(RetrievalError, _retrieval_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def request_id_of(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


async def _retrieval_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RetrievalError)
    return problem_of(error, request_id_of(request))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    request_id = request_id_of(request)
    if isinstance(error.__cause__, json.JSONDecodeError):
        return problem_of(not_json("the body", error.__cause__), request_id)
    if isinstance(error.body, bytes):  # not read as JSON, for its content type
        content_type = request.headers.get("content-type", "")
        return problem_of(content_type_error(content_type, [JSON]), request_id)
    # The first part of a location says body, query, path or header; the field's name says enough.
    fields = field_errors({**complaint, "loc": complaint["loc"][1:]} for complaint in error.errors())
    return problem(422, "invalid_request", summary(fields), request_id, errors=fields)


async def _http_error(request: Request, error: Exception) -> Response:
    """Render Starlette's own errors: unknown route, wrong method, an incomplete body. A body over its limit arrives
    here as the cause."""
    assert isinstance(error, HTTPException)
    request_id = request_id_of(request)
    if isinstance(error.__cause__, RetrievalError):
        return problem_of(error.__cause__, request_id)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    path = path_sent(request.scope)
    detail = f"{request.method} {path}: {error.detail}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail += advice_on(path)
    headers = dict(error.headers or {})
    if "GET" in (allowed := headers.get("Allow", "")) and "HEAD" not in allowed:
        headers["Allow"] = allowed.replace("GET", "GET, HEAD")
    return problem(error.status_code, code, detail, request_id, headers=headers)
