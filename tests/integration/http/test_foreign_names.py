"""A key reaches nothing of a collection that is not its own, however the name is spelt and whatever the call."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.http.middleware.api_keys import SCOPES
from service.keys import Key, KeyScope, line_of

OPS = {"x-api-key": "0123456789abcdef-ops"}
KEYS = {
    name: ({"x-api-key": f"0123456789abcdef-{name}"}, scopes)
    for name, scopes in {
        "shop": {KeyScope.SEARCH, KeyScope.WRITE},
        "manager": set(KeyScope),
        "reader": {KeyScope.SEARCH},
        "writer": {KeyScope.WRITE},
    }.items()
}
SPELLINGS = (
    "secret", "%73ecret", "secret%20", "%2e%2e%2fsecret", "shop-a%2f..%2fsecret", "shop-a/../secret", "./secret",
    "secret;shop-a", "secret%00", "secret%0a", "shop-a%0asecret", "SECRET", "secret%1f", "%1fsecret",
    "shop-a%1fsecret", "%C5%BFecret", "secret?name=shop-a", "shop-a%252f..%252fsecret", "shop-a%5c..%5csecret",
    "//secret", "secret/.", "secret/", "secret%2f", "%2fsecret", "shop-a%2fsecret",
)  # fmt: skip
BODIES: dict[str, Any] = {
    "documents": [{"id": "evil", "text": "red"}],
    "delete": {"ids": ["a"]},
    "imports": {"uri": "/none.jsonl"},
    "{name}": {"limit": 7},
}


@pytest.fixture
async def served(serve: Callable[..., Awaitable[Any]], tmp_path: Path) -> Any:
    lines = [line_of(OPS["x-api-key"], Key("ops", frozenset(KeyScope)))]
    lines += [
        line_of(headers["x-api-key"], Key(name, frozenset(scopes), ("shop-",)))
        for name, (headers, scopes) in KEYS.items()
    ]
    (tmp_path / "keys").write_text("\n".join(lines))
    served = await serve(api_keys_file=tmp_path / "keys")
    for name in ("shop-a", "secret"):
        await served.client.put(f"/collections/{name}", headers=OPS)
    return served


async def test_no_spelling_of_a_name_opens_a_collection(served: Any) -> None:
    client = served.client
    documents = [{"id": "a", "text": "red TOPSECRET"}]
    posted = await client.post("/collections/secret/documents?wait=true", json=documents, headers=OPS)
    job = posted.json()["job"]["id"]
    tried = 0
    for template in SCOPES:
        method, _, path = template.partition(" ")
        if not re.search(r"\{(name|id)\}", path):
            continue
        for spelling in SPELLINGS if "{name}" in path else ("",):
            name = spelling if "aliases" not in path else f"{spelling}"
            address = path.replace("{name}", name).replace("{id}", "a" if "documents" in path else job)
            body = {"collection": "secret"} if "aliases" in path else BODIES.get(path.rpartition("/")[2])
            for headers, _scopes in KEYS.values():
                tried += 1
                response = await client.request(method, address, headers=headers, json=body)
                assert 400 <= response.status_code < 500, (template, spelling, headers, response.text)
                assert "TOPSECRET" not in response.text, (template, spelling, headers)
    assert tried > 1_000
    for collection in ("secret", ["secret"], {"secret": 1}, "shop-a/../secret"):
        search = {"collection": collection, "query": {"text": "red"}}
        for headers, _scopes in KEYS.values():
            for path, sent in (("/search", search), ("/search/batch", {"searches": [search]})):
                assert "TOPSECRET" not in (await client.post(path, json=sent, headers=headers)).text
    doubled = b'{"collection": "shop-a", "query": {"text": "red"}, "collection": "secret"}'
    refused = await client.post(
        "/search", content=doubled, headers={**KEYS["shop"][0], "content-type": "application/json"}
    )
    assert "TOPSECRET" not in refused.text
    whole = (await client.get("/collections/secret", headers=OPS)).json()
    assert (whole["documents"], whole["limit"], whole["aliases"]) == (1, None, [])


async def test_whether_a_name_is_there_cannot_be_told(served: Any) -> None:
    """By the answer, which is the same but for the name."""
    for headers, _scopes in KEYS.values():
        answers = []
        for name in ("secret", "nobody"):
            response = await served.client.get(f"/collections/{name}", headers=headers)
            wire = json.loads(response.text.replace(name, "NAME"))
            answers.append((response.status_code, wire["code"], wire["detail"]))
        assert answers[0] == answers[1]
