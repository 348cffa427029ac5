"""Keys over the whole application: what a body names, lists, jobs, and what the audit log says of a write."""

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.keys import Key, KeyScope, line_of

OPS, SHOP = {"x-api-key": "0123456789abcdef-ops"}, {"x-api-key": "0123456789abcdef-shop"}


@pytest.fixture
async def served(serve: Callable[..., Awaitable[Any]], tmp_path: Path) -> Any:
    shop = Key("shop", frozenset({KeyScope.SEARCH, KeyScope.WRITE}), ("shop-",))
    lines = [line_of(OPS["x-api-key"], Key("ops", frozenset(KeyScope))), line_of(SHOP["x-api-key"], shop)]
    (tmp_path / "keys").write_text("\n".join(lines))
    served = await serve(api_keys_file=tmp_path / "keys")
    for name in ("shop-1", "other"):
        created = await served.client.put(f"/collections/{name}", headers=OPS)
        assert created.status_code == 201, created.text
    return served


async def load(served: Any, collection: str, headers: dict[str, str]) -> Any:
    path = f"/collections/{collection}/documents"
    return await served.client.post(path, params={"wait": True}, json=[{"id": "a", "text": "red"}], headers=headers)


async def test_a_key_searches_its_collections_alone(served: Any) -> None:
    for name in ("shop-1", "other"):
        assert (await load(served, name, OPS)).status_code == 200

    def search(name: str) -> dict[str, Any]:
        return {"collection": name, "query": {"text": "red"}}

    client = served.client
    assert (await client.post("/search", json=search("shop-1"), headers=SHOP)).json()["hits"][0]["id"] == "a"
    for name in ("other", "nowhere"):  # there or not: it does not say
        refused = await client.post("/search", json=search(name), headers=SHOP)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "shop-*" in refused.json()["detail"]
    both = await client.post("/search/batch", json={"searches": [search("other"), search("shop-1")]}, headers=SHOP)
    assert [one.get("error", {}).get("code") for one in both.json()["results"]] == ["forbidden", None]


async def test_a_key_sees_its_collections_and_jobs_alone(served: Any) -> None:
    jobs = {name: (await load(served, name, OPS)).json()["job"]["id"] for name in ("shop-1", "other")}
    client = served.client

    async def seen(headers: dict[str, str]) -> tuple[set[str], set[str]]:
        collections = (await client.get("/collections", headers=headers)).json()["collections"]
        found = (await client.get("/jobs", headers=headers)).json()["jobs"]
        return {one["name"] for one in collections}, {one["collection"] for one in found}

    assert await seen(OPS) == ({"shop-1", "other"}, {"shop-1", "other"})
    assert await seen(SHOP) == ({"shop-1"}, {"shop-1"})
    for path in ("/jobs/{}", "/jobs/{}/failures"):
        assert (await client.get(path.format(jobs["shop-1"]), headers=SHOP)).status_code == 200
        hidden = await client.get(path.format(jobs["other"]), headers=SHOP)
        absent = await client.get(path.format("0" * 32), headers=SHOP)
        assert (hidden.status_code, hidden.json()["code"]) == (absent.status_code, absent.json()["code"])
        assert hidden.status_code == 404


async def test_an_alias_leads_a_key_where_an_admin_of_both_led_it(served: Any, tmp_path: Path) -> None:
    """Who may not name a collection gets no alias for it, and sees none but its own."""
    limited = {"x-api-key": "0123456789abcdef-limited"}
    with (tmp_path / "keys").open("a") as file:
        file.write("\n" + line_of(limited["x-api-key"], Key("limited", frozenset(KeyScope), ("shop-",))))
    served.parts.api_keys._read_at = -1e9  # it looks at the file again
    await load(served, "other", OPS)
    client = served.client
    for alias, collection in (("shop-live", "other"), ("live", "shop-1")):
        refused = await client.put(f"/aliases/{alias}", json={"collection": collection}, headers=limited)
        assert refused.status_code == 403, alias
    assert (await client.put("/aliases/shop-live", json={"collection": "shop-1"}, headers=SHOP)).status_code == 403
    assert (await client.put("/aliases/shop-live", json={"collection": "other"}, headers=OPS)).status_code == 201
    assert (await client.put("/aliases/live", json={"collection": "shop-1"}, headers=OPS)).status_code == 201
    assert [one["alias"] for one in (await client.get("/aliases", headers=SHOP)).json()["aliases"]] == ["shop-live"]
    found = await client.post("/search", json={"collection": "shop-live", "query": {"text": "red"}}, headers=SHOP)
    assert found.json()["hits"][0]["id"] == "a"
    refused = await client.post("/search", json={"collection": "live", "query": {"text": "red"}}, headers=SHOP)
    assert refused.status_code == 403


async def test_a_copy_goes_where_its_key_goes(served: Any, tmp_path: Path) -> None:
    limited = {"x-api-key": "0123456789abcdef-limited"}
    with (tmp_path / "keys").open("a") as file:
        file.write("\n" + line_of(limited["x-api-key"], Key("limited", frozenset(KeyScope), ("shop-",))))
    served.parts.api_keys._read_at = -1e9  # it looks at the file again
    await load(served, "shop-1", OPS)

    async def copy(origin: str, to: str, headers: dict[str, str]) -> int:
        answer = await served.client.post(f"/collections/{origin}/copy", json={"to": to}, headers=headers)
        return int(answer.status_code)

    assert await copy("shop-1", "shop-2", limited) == 202
    assert await copy("shop-1", "new", limited) == 403
    assert await copy("other", "shop-3", limited) == 403
    assert await copy("shop-1", "shop-3", SHOP) == 403, "it may make no collection"


async def test_a_packed_body_needs_a_key_as_any_other(served: Any) -> None:
    headers = {"content-type": "application/vnd.msgpack"}
    assert (await served.client.post("/encode", content=b"\x80", headers=headers)).status_code == 401


async def test_an_encoded_slash_opens_nothing(served: Any) -> None:
    """The path that is looked at is the path that is served."""
    for path in ("/collections/other%2Fdocuments/a", "/collections%2Fother", "/collections/shop-1/../other"):
        response = await served.client.get(path, headers=SHOP)
        assert response.status_code in (403, 404), path


async def test_a_write_is_written_down_with_its_job(served: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        job = (await load(served, "shop-1", SHOP)).json()["job"]["id"]
        await served.client.delete("/collections/shop-1/documents/a", headers=SHOP)
        await served.client.get("/jobs", headers=SHOP)
    events = [event for event in logs if event["event"] == "audit"]
    assert [(one["key"], one["action"], one["collection"], one["outcome"]) for one in events] == [
        ("shop", "POST /collections/{name}/documents", "shop-1", "done"),
        ("shop", "DELETE /collections/{name}/documents/{id}", "shop-1", "done"),
    ]
    assert events[0]["job"] == job
    assert events[1]["job"] not in (None, job)


async def test_an_alias_opens_what_it_stands_for_and_changes_nothing(
    served: Any, tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    """Pictures and jobs are found by the alias; the generations of the collection behind are for keys of that collection."""
    limited = {"x-api-key": "0123456789abcdef-limited"}
    with (tmp_path / "keys").open("a") as file:
        file.write("\n" + line_of(limited["x-api-key"], Key("limited", frozenset(KeyScope), ("shop-",))))
    served.parts.api_keys._read_at = -1e9  # it looks at the file again
    client = served.client
    assert (await client.put("/aliases/shop-live", json={"collection": "other"}, headers=OPS)).status_code == 201
    assert (await client.put("/aliases/hidden", json={"collection": "other"}, headers=OPS)).status_code == 201
    image = base64.b64encode(make_image("red", (8, 8))).decode()
    documents = [{"id": "a", "text": "red", "image": {"base64": image}}]
    posted = await client.post("/collections/shop-live/documents?wait=true", json=documents, headers=SHOP)
    job = posted.json()["job"]["id"]
    assert (await client.get(f"/jobs/{job}", headers=SHOP)).status_code == 200
    for path in ("/jobs", "/jobs?collection=shop-live"):
        listed = (await client.get(path, headers=SHOP)).json()["jobs"]
        assert job in [one["id"] for one in listed], path
    search = {"collection": "shop-live", "query": {"text": "red"}}
    (hit,) = (await client.post("/search", json=search, headers=SHOP)).json()["hits"]
    document = (await client.get("/collections/shop-live/documents/a", headers=SHOP)).json()
    for url in (hit["image_url"], document["image_url"], hit["thumbnail_url"], document["thumbnail_url"]):
        assert (await client.get(url)).status_code == 401, url
        assert (await client.get(url.replace("shop-live", "other"), headers=SHOP)).status_code == 403, url
        picture = await client.get(url, headers=SHOP)
        assert picture.status_code == 200, url
        assert picture.headers["vary"] == "authorization, x-api-key"
    assert (await client.get("/collections/shop-live", headers=SHOP)).json()["aliases"] == ["shop-live"]
    for order in ("", "/cancel", "/rollback", "/finish"):
        refused = await client.post(f"/collections/shop-live/reindex{order}", headers=limited)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), order
