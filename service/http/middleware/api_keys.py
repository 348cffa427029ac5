"""Who comes, and may they: the key of a request, and the scope of every call in one table.

    Authorization: Bearer KEY, or X-API-Key: KEY  ──►  401 without a known key  ──►  403 without one of the call's scopes,
                                                                                or when the path names another's
                                                                                collection

A collection that stands in a body, and a job, are looked at by the routes: `CallerOf` is who asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from indexer.domain.validation import shown
from model.errors import Forbidden, NotFound, RetrievalError, Unauthorized
from service.http.middleware.paths import decoded
from service.http.middleware.status import StatusRecorder
from service.http.problems import advice_on, path_sent, problem_of
from service.keys import ANYONE, Key, KeyFile, KeyScope

log = structlog.get_logger("audit")

SEARCH, WRITE, ADMIN = (frozenset({scope}) for scope in KeyScope)
ANY = frozenset(KeyScope)  # every key
OPEN: frozenset[KeyScope] = frozenset()  # and who has none

# One of its scopes is enough for a call. What is not here is for keys with `admin`, and for others it is not there: a
# route that somebody forgot is closed. A test fails for it.
SCOPES: Mapping[str, frozenset[KeyScope]] = {
    "GET /": OPEN,
    "GET /ui/{file}": OPEN,
    "GET /docs": OPEN,
    "GET /docs/start.js": OPEN,
    "GET /docs/swagger-ui-bundle.js": OPEN,
    "GET /docs/swagger-ui.css": OPEN,
    "GET /openapi.json": OPEN,
    "GET /livez": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": OPEN,
    "GET /info": ANY,
    "POST /search": SEARCH,
    "POST /search/batch": SEARCH,
    "POST /encode": SEARCH | WRITE,
    "POST /passages": SEARCH | WRITE,
    "POST /v1/embeddings": SEARCH | WRITE,
    "POST /v1/multimodalembeddings": SEARCH | WRITE,
    "POST /v2/embed": SEARCH | WRITE,
    "GET /v1/models": ANY,
    "GET /v1/models/{model}": ANY,
    "GET /collections": ANY,
    "GET /collections/{name}": ANY,
    "PUT /collections/{name}": ADMIN,
    "PATCH /collections/{name}": ADMIN,
    "DELETE /collections/{name}": ADMIN,
    "POST /collections/{name}/copy": ADMIN,
    "POST /collections/{name}/reindex": ADMIN,
    "GET /collections/{name}/reindex": ADMIN,
    "POST /collections/{name}/reindex/cancel": ADMIN,
    "POST /collections/{name}/reindex/rollback": ADMIN,
    "POST /collections/{name}/reindex/finish": ADMIN,
    "GET /aliases": ANY,
    "PUT /aliases/{name}": ADMIN,
    "DELETE /aliases/{name}": ADMIN,
    "POST /collections/{name}/facets": SEARCH,
    "POST /collections/{name}/documents": WRITE,
    "GET /collections/{name}/documents": SEARCH,
    "POST /collections/{name}/documents/scroll": SEARCH,
    "POST /collections/{name}/documents/get": SEARCH,
    "POST /collections/{name}/count": SEARCH,
    "POST /collections/{name}/documents/update": WRITE,
    "PATCH /collections/{name}/documents/{id}": WRITE,
    "POST /collections/{name}/documents/delete": WRITE,
    "POST /collections/{name}/imports": WRITE,
    "GET /collections/{name}/documents/{id}": SEARCH,
    "DELETE /collections/{name}/documents/{id}": WRITE,
    "GET /collections/{name}/documents/{id}/image": SEARCH,
    "GET /jobs": WRITE | ADMIN,
    "GET /jobs/{id}": WRITE | ADMIN,
    "GET /jobs/{id}/failures": WRITE | ADMIN,
    "GET /jobs/{id}/events": WRITE | ADMIN,
    "POST /jobs/{id}/cancel": WRITE | ADMIN,
    "POST /jobs/{id}/retry": WRITE,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request by the table: its template, such as `GET /jobs/{id}`, its scopes, and the values in its path."""

    template: str
    scopes: frozenset[KeyScope]
    parameters: Mapping[str, Any]

    @property
    def audited(self) -> bool:
        return bool(self.scopes) and KeyScope.SEARCH not in self.scopes and not self.template.startswith("GET ")


class Table:
    """The table of calls, in which the call of a request is found."""

    def __init__(self, scopes: Mapping[str, frozenset[KeyScope]] = SCOPES) -> None:
        self._rows: list[tuple[str, re.Pattern[str], str, frozenset[KeyScope]]] = []
        for template, allowed in scopes.items():
            method, _, path = template.partition(" ")
            self._rows.append((method, compile_path(path)[0], template, allowed))

    def call(self, method: str, path: str) -> Call | None:
        method = "GET" if method == "HEAD" else method
        for row_method, pattern, template, allowed in self._rows:
            if row_method == method and (matched := pattern.match(path)):
                return Call(template, allowed, decoded(matched.groupdict()))
        return None


class ApiKeyGate:
    """Without a file of keys everybody may do everything. Writes and what admins do are written down, never with
    content."""

    def __init__(self, app: ASGIApp, keys: KeyFile | None, scopes: Mapping[str, frozenset[KeyScope]] = SCOPES) -> None:
        self._app = app
        self._keys = keys
        self._table = Table(scopes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = self._table.call(scope["method"], scope["path"])
        if call is not None:
            scope["state"]["route"] = call.template.partition(" ")[2]
        key = self._key(Headers(scope=scope))
        scope["state"]["key"] = key
        error = _refusal(call, key, scope)
        answer: ASGIApp = self._app if error is None else problem_of(error, scope["state"]["request_id"])
        if call is None or not call.audited:
            await answer(scope, receive, send)
        else:
            await _audited(answer, call, key, scope, receive, send)

    def _key(self, headers: Headers) -> Key | None:
        if not self._keys:
            return ANYONE
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return self._keys.find(token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", ""))


def _refusal(call: Call | None, key: Key | None, scope: Scope) -> RetrievalError | None:
    if call is not None and call.scopes == OPEN:
        return None
    if key is None:
        return Unauthorized("no valid API key: send Authorization: Bearer <key> or X-API-Key: <key>")
    if call is None:
        path = path_sent(scope)
        is_admin = KeyScope.ADMIN in key.scopes
        return None if is_admin else NotFound(f"{scope['method']} {path}: there is no such call{advice_on(path)}")
    if not call.scopes & key.scopes:
        needed = " or ".join(scope for scope in KeyScope if scope in call.scopes)
        return Forbidden(f"{call.template} needs a key with scope {needed}; key {key.name!r} has not")
    try:
        if "name" in call.parameters:
            key.require(call.parameters["name"])
    except Forbidden as error:
        return error
    return None


async def _audited(answer: ASGIApp, call: Call, key: Key | None, scope: Scope, receive: Receive, send: Send) -> None:
    """Log one event named `audit`; its status is 0 if there was no answer."""
    recorder = StatusRecorder(send)
    try:
        await answer(scope, receive, recorder)
    finally:
        parameters, status = call.parameters, recorder.status
        job = structlog.contextvars.get_contextvars().get("job")  # of the call's own making
        log.info(
            "audit",
            key=key.name if key else None,
            action=call.template,
            collection=shown(parameters.get("name")),
            job=job or (parameters.get("id") if "/jobs/" in call.template else None),
            status=status,
            outcome="done" if 200 <= status < 400 else "refused" if 400 <= status < 500 else "failed",
        )


async def caller_of(request: Request) -> Key:
    """Return the caller's key. Raises `Unauthorized` on a call that needs none, because such a call has no caller."""
    key: Key | None = request.scope["state"]["key"]
    if key is None:
        raise Unauthorized
    return key


CallerOf = Annotated[Key, Depends(caller_of)]
