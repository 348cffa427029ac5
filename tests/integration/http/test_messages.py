"""Errors say what is wrong in a few hundred characters, of which at most 200 are the caller's, whatever was sent and wherever."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest

from service.encoder.app import EncoderParts, create_encoder_app

MARK = "Zq"
LARGE = MARK * 3_000
VALUES: dict[str, Any] = {
    "text": LARGE,
    "list": [LARGE] * 30,
    "object": {LARGE: LARGE},
    "objects": [{LARGE: {LARGE: LARGE}}] * 30,
    "fields": {f"{LARGE}{number}": LARGE for number in range(30)},
    "number": 10**18,
}
IDEMPOTENT = {"idempotency-key": "key"}


def requests(document: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Every call of the document with a large value in each place where a value can stand."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _of_call(document, method.upper(), path, operation)


def _of_call(
    document: dict[str, Any], method: str, path: str, operation: dict[str, Any]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    parameters = operation.get("parameters", [])
    plain = path.replace("{name}", "flags").replace("{id}", "a").replace("{model}", "fake")
    body = {"json": {}} if "requestBody" in operation else {}
    for name in (parameter["name"] for parameter in parameters if parameter["in"] == "path"):
        with_value = path.replace(f"{{{name}}}", quote(LARGE)).replace("{name}", "flags").replace("{id}", "a")
        yield f"path {name}", method, with_value, body
    for name in [LARGE, *(parameter["name"] for parameter in parameters if parameter["in"] == "query")]:
        yield f"query {name[:20]}", method, plain, {**body, "params": {name: LARGE}}
    for name in ("idempotency-key", "content-type", "content-encoding", "x-api-key", "if-none-match", "x-request-id"):
        yield f"header {name}", method, plain, {**body, "headers": {name: LARGE}}
    yield (
        "content type with charset",
        method,
        plain,
        {**body, "headers": {"content-type": f"application/json;charset={LARGE}"}},
    )
    for kind in ("application/json", "application/x-ndjson", "application/msgpack"):
        yield f"{kind} that is none", method, plain, {"content": LARGE.encode(), "headers": {"content-type": kind}}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for where, value in _bodies(document, content.get("schema", {})):
            headers = {"content-type": "application/json"}
            yield f"body {where}", method, plain, {"content": orjson.dumps(value), "headers": headers}


def _bodies(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from VALUES.items()
    fields = list(_fields(document, schema))
    for field in fields:
        for kind, value in VALUES.items():
            yield f"{field} as {kind}", {"collection": "flags", "query": {"text": "red"}, "role": "query", field: value}
    for kind, value in VALUES.items():
        for nested in ("text", "image", "filter", "positive", "document_id", LARGE):
            yield f"query.{nested[:10]} as {kind}", {"collection": "flags", "query": {nested: value}}
        for condition in ("field", "equals", "in", "match", "all", "not", "geo_radius", LARGE):
            query = {"collection": "flags", "query": {"text": "red"}, "filter": {"field": "a", condition: value}}
            yield f"filter.{condition[:10]} as {kind}", query
        yield f"document as {kind}", [{"id": "x", "text": "red", "metadata": value}, {"id": value}, {LARGE: value}]


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    if reference := schema.get("$ref"):
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    yield from schema.get("properties", {})
    for alternative in (*schema.get("anyOf", []), *schema.get("allOf", [])):
        yield from _fields(document, alternative)


def messages(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name in ("detail", "message") and isinstance(part, str):
                yield part
            else:
                yield from messages(part)
    elif isinstance(value, list):
        for part in value:
            yield from messages(part)


async def check(client: httpx.AsyncClient, document: dict[str, Any]) -> int:
    count = 0
    for where, method, path, request in requests(document):
        if method == "GET" and path.endswith("/events"):
            continue
        response = await client.request(method, path, **request)
        place = f"{method} {path[:60]} {where}: {response.status_code} {response.text[:1500]}"
        assert response.status_code < 500 or response.status_code == 503, place
        if not response.headers.get("content-type", "").endswith("json"):
            continue
        if response.status_code >= 400:
            assert len(response.content) < 8_000, place
        for message in messages(response.json()):
            count += 1
            assert len(message) <= 600, place
            assert message.count(MARK) * len(MARK) <= 200, place
    return count


async def test_messages_are_short_whatever_they_are_about(served: Any) -> None:
    await served.load({"id": "a", "text": "red"})
    document = served.app.openapi()
    assert await check(served.client, document) > 500


@pytest.mark.parametrize("path", ["/encode", "/v1/embeddings"])
async def test_messages_of_an_encoder_are_short_too(make_batcher: Any, path: str) -> None:
    from prometheus_client import CollectorRegistry

    from service.observability.metrics import Metrics
    from service.settings import ServerRole, Settings

    parts = EncoderParts(Settings(role=ServerRole.ENCODER), Metrics(CollectorRegistry()), await make_batcher())
    app = create_encoder_app(parts)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        document = {**app.openapi(), "paths": {path: app.openapi()["paths"][path]}}
        assert await check(client, document) > 50
