"""Every error as RFC 9457 problem+json: what was wrong, which value, the limit, a code and the request's id. Never image bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from model.errors import (
    InvalidInput,
    InvalidJson,
    RetrievalError,
    UnsupportedMediaType,
)
from service.names import IN_WORDS

_SHOWN_CHARS = 100  # of a wrong value: enough to recognise it, too few to echo an image or a document
_SHOWN_ERRORS = 20
_SHOWN_JSON_CHARS = 20  # of what stands where JSON was expected
_RETRY_AFTER_S = 1.0
_MAX_RETRY_AFTER_S = 60.0

JSON = "application/json"

Fields = list[dict[str, Any]]


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
        "detail": detail,
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
    errors = [{"field": error.field, "value": shown(error.value), "limit": shown(error.limit)}] if error.field else None
    return problem(error.status, error.code, error.detail, request_id, errors=errors, headers=headers)


def retry_after_s(error: RetrievalError) -> int:
    """Whole seconds, as the header wants them, between one and a minute."""
    return math.ceil(min(max(getattr(error, "retry_after_s", _RETRY_AFTER_S), 1.0), _MAX_RETRY_AFTER_S))


def shown(value: Any) -> Any:
    """A value as it may stand in an answer: short, and JSON."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text)} characters)"


def path_sent(scope: Scope) -> str:
    """As the caller wrote it, with its percent signs: decoded it may hold control characters, ours for an encoded slash among them."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    text: str = shown(raw.decode("ascii", "backslashreplace"))
    return text


def field_errors(errors: Iterable[Mapping[str, Any]]) -> Fields:
    """Pydantic's errors as {field, value, limit}; `limit` says what is allowed there."""
    fields: Fields = []
    for error in errors:
        field = {"field": _path(error["loc"]), "value": shown(error.get("input")), "limit": _allowed(error)}
        if field not in fields:
            fields.append(field)
    return fields[:_SHOWN_ERRORS]


def _allowed(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "no such field"
    if error["type"] == "string_pattern_mismatch" and (words := IN_WORDS.get(error["ctx"]["pattern"])):
        return words
    return str(error["msg"]).removeprefix("Value error, ")  # which pydantic puts before our own words


def summary(fields: Sequence[Mapping[str, Any]]) -> str:
    """The errors in one line, for people and for per-item details."""
    return "; ".join(_named(field) + f"{field['limit']} (got {field['value']!r})" for field in fields[:3])


def _named(field: Mapping[str, Any]) -> str:
    """Nothing for an error of the whole."""
    return f"{field['field']}: " if field["field"] else ""


def invalid(errors: Iterable[Mapping[str, Any]]) -> InvalidInput:
    """A failed validation of one item as the error of that item."""
    fields = field_errors(errors)
    return InvalidInput(summary(fields), field=fields[0]["field"] or None)


def not_json(what: str, error: json.JSONDecodeError) -> InvalidJson:
    """With the place, counted in characters from 0, and what stands there."""
    there = error.doc[error.pos : error.pos + _SHOWN_JSON_CHARS]
    place = f", at character {error.pos}: {there}" if there else ""
    return InvalidJson(f"{what} is not JSON: {error.msg}{place}", field="body", value=there or None)


def content_type_error(given: str, wanted: Iterable[str]) -> UnsupportedMediaType:
    """A web page sends other types to any address without asking first; of JSON its browser asks, and is told no."""
    types = " or ".join(wanted)
    detail = f"the body must be sent as content-type {types}, not {shown(given or 'none')}"
    return UnsupportedMediaType(detail, field="content-type", value=given or None, limit=types)


def error_wire(error: RetrievalError) -> dict[str, Any]:
    """The error of one item among others."""
    return {"error": {"code": error.code, "detail": error.detail}}


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
        given = request.headers.get("content-type", "")
        return problem_of(content_type_error(given, [JSON]), request_id)
    # The first part of a location says body, query, path or header; the field's name says enough.
    fields = field_errors({**one, "loc": one["loc"][1:]} for one in error.errors())
    return problem(422, "invalid_request", summary(fields), request_id, errors=fields)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, wrong method, a body that broke off. A body over its limit arrives here as the cause."""
    assert isinstance(error, HTTPException)
    request_id = request_id_of(request)
    if isinstance(error.__cause__, RetrievalError):
        return problem_of(error.__cause__, request_id)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    detail = f"{request.method} {path_sent(request.scope)}: {error.detail}"
    return problem(error.status_code, code, detail, request_id, headers=error.headers)


def _path(location: Sequence[str | int]) -> str:
    """("query", "image") as "query.image", ("inputs", 3) as "inputs[3]". Our tags of union branches, in <>, stay out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):
            path += f".{part}" if path else part
    return path
