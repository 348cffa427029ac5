"""Collections over HTTP, with Qdrant Edge and with the server store: declared fields, defaults, aliases, counts, deletion by filter."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_store import FakeStore
from qdrant_server import QdrantServer, qdrant  # noqa: F401 - a fixture

from indexer.store.edge.client import EdgeStore
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

DECLARED = {
    "region": "keyword",
    "area": "number",
    "at": "datetime",
    "caption": "text",
    "place": "geo",
    "member": "bool",
}


@pytest.fixture(params=["edge", "server"])
async def served(request: pytest.FixtureRequest, serve: Callable[..., Awaitable[Any]]) -> Any:
    store = ServerStore(ServerStoreSettings(":memory:")) if request.param == "server" else None
    return await serve(store=store, max_search_hits=50)


def documents(n: int = 20) -> list[dict[str, Any]]:
    return [
        {"id": f"d{i:03}", "text": f"word{i}", "metadata": {"region": ["Europe", "Asia"][i % 2], "area": i}}
        for i in range(n)
    ]


async def ask(served: Any, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    response = await served.client.request(method, path, json=body)
    assert response.status_code == status, response.text
    return response.json() if response.content else None


async def hits(served: Any, collection: str, **options: Any) -> list[str]:
    body = {"collection": collection, "query": {"text": "word1"}, **options}
    return [hit["id"] for hit in (await ask(served, "POST", "/search", body))["hits"]]


# --- declared fields and defaults


async def test_declared_fields_are_kept_added_to_and_checked(served: Any) -> None:
    declared = {"region": "keyword", "area": "number"}
    made = await ask(served, "PUT", "/collections/flags", {"indexes": declared}, status=201)
    assert made["indexes"] == declared
    assert await ask(served, "PUT", "/collections/flags", {"indexes": declared}) == made
    assert await ask(served, "PUT", "/collections/flags") == made
    await served.load(*documents())
    assert (made["precision"], (await ask(served, "GET", "/collections/flags"))["precision"]) == ([], ["float32"])
    changed = await ask(served, "PATCH", "/collections/flags", {"indexes": DECLARED})
    assert changed["indexes"] == DECLARED
    assert (await ask(served, "GET", "/collections/flags"))["indexes"] == DECLARED
    assert len(await hits(served, "flags", filter={"field": "region", "equals": "Asia"})) == 10
    assert await hits(served, "flags", filter={"field": "area", "gte": 19}) == ["d019"]
    for wrong, field in (
        ({"field": "region", "gte": 5}, "region"),
        ({"all": [{"field": "area", "lt": 3}, {"not": {"field": "at", "equals": True}}]}, "at"),
        ({"field": "place", "match": "here"}, "place"),
    ):
        body = {"collection": "flags", "query": {"text": "x"}, "filter": wrong}
        refused = await ask(served, "POST", "/search", body, status=400)
        assert f"field {field} is declared {DECLARED[field]}" in refused["detail"]
        refused = await ask(served, "POST", "/collections/flags/documents/delete", {"filter": wrong}, status=400)
        assert refused["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("method", "body", "status", "says"),
    [
        ("PUT", {"indexes": {"region": "text"}}, 409, "A declared type stays"),
        ("PUT", {"indexes": {"new": "text"}}, 409, "PATCH adds it"),
        ("PUT", {"limit": 4}, 409, "PATCH changes it"),
        ("PATCH", {"indexes": {"region": "number"}}, 409, "switch an alias to it"),
        ("PATCH", {"indexes": {"region": "words"}}, 422, "indexes.region"),
        ("PATCH", {"indexes": {"a..b": "text"}}, 400, "indexes is empty, has an empty part"),
        ("PATCH", {"limit": 51}, 400, "limit is 51, at most 50"),
        ("PUT", {"limit": 0}, 422, "limit"),
        ("PATCH", {"fingerprint": "x"}, 422, "no such field"),
        ("PATCH", None, 422, "Field required"),
    ],
)
async def test_what_cannot_be_changed_is_refused_and_says_how(
    served: Any, method: str, body: Any, status: int, says: str
) -> None:
    before = await ask(served, "PUT", "/collections/flags", {"indexes": {"region": "keyword"}, "limit": 3}, status=201)
    refused = await ask(served, method, "/collections/flags", body, status=status)
    assert says in str(refused)
    assert await ask(served, "GET", "/collections/flags") == before


async def test_options_of_a_server_are_refused_by_an_embedded_index(
    serve: Callable[..., Awaitable[Any]],
) -> None:
    served = await serve()
    options = {"server": {"quantization": "scalar"}}
    refused = await ask(served, "PUT", "/collections/c", options, status=400)
    assert refused["detail"].startswith("server.quantization is set, and this collection is in an embedded index")
    await ask(served, "PUT", "/collections/c", {}, status=201)
    await ask(served, "PUT", "/collections/c", options, status=400)
    await ask(served, "PATCH", "/collections/c", {"limit": 3, **options}, status=400)
    assert (await ask(served, "GET", "/collections/c"))["limit"] is None
    unknown = await ask(served, "PATCH", "/collections/c", {"server": {"hnsw": 3}}, status=422)
    assert unknown["errors"][0]["field"] == "server.hnsw"


async def test_options_of_a_server_are_shown_compared_and_changed(
    serve: Callable[..., Awaitable[Any]],
    qdrant: QdrantServer,  # noqa: F811 - the fixture
) -> None:
    store = ServerStore(ServerStoreSettings(qdrant.url, api_key=qdrant.api_key, prefer_grpc=False))
    served = await serve(store=store)
    created = await ask(served, "PUT", "/collections/c", {"server": {"hnsw_ef": 64}}, status=201)
    assert created["server"]["hnsw_ef"] == 64
    await ask(served, "PUT", "/collections/c", {"server": {"hnsw_ef": 64}})
    other = await ask(served, "PUT", "/collections/c", {"server": {"hnsw_ef": 99}}, status=409)
    assert other["detail"] == "collection 'c' exists with server.hnsw_ef 64, not 99; PATCH changes what can be changed"
    assert (await ask(served, "PATCH", "/collections/c", {"server": {"hnsw_ef": 99}}))["server"]["hnsw_ef"] == 99
    copies = await ask(served, "PATCH", "/collections/c", {"server": {"replication_factor": 2}}, status=400)
    assert copies["errors"][0]["field"] == "server.replication_factor"
    await ask(served, "POST", "/collections/c/copy?wait=true", {"to": "d"})
    assert (await ask(served, "GET", "/collections/d"))["server"]["hnsw_ef"] == 99
    inconsistent = {"server": {"write_consistency_factor": 2}}
    refused = await ask(served, "PUT", "/collections/e", inconsistent, status=400)
    assert "limit is 1 to the replication_factor, 1" in refused["detail"]


async def test_defaults_are_those_of_the_collection_until_a_search_says_otherwise(served: Any, runtime: Any) -> None:
    await ask(served, "PUT", "/collections/flags", {"limit": 3}, status=201)
    await served.load(*documents())
    assert len(await hits(served, "flags")) == 3
    assert len(await hits(served, "flags", limit=5)) == 5
    changed = await ask(served, "PATCH", "/collections/flags", {"limit": None, "instruction": "find:"})
    assert (changed["limit"], changed["instruction"]) == (None, "find:")
    assert len(await hits(served, "flags")) == 10
    assert runtime.batches[-1] == ["find: word1"]
    assert (await ask(served, "PATCH", "/collections/flags", {}))["instruction"] == "find:"
    await ask(served, "PATCH", "/collections/none", {}, status=404)


async def test_counts_and_size(served: Any, runtime: Any) -> None:
    await served.load(*documents(5))
    runtime.on_forward = lambda texts: 1 / 0 if "bad" in texts else None
    await served.load({"id": "d000", "text": "bad"})
    runtime.gate.clear()
    posted = await ask(served, "POST", "/collections/flags/documents", documents(9)[5:], status=202)
    one = await ask(served, "GET", "/collections/flags")
    assert (one["documents"], one["pending"], one["failed"]) == (5, 4, 1)
    runtime.gate.set()
    await served.parts.progress.wait(posted["job"]["id"], 10)
    await served.load({"id": "d000", "text": "good"})
    one = await ask(served, "GET", "/collections/flags")
    assert (one["documents"], one["pending"], one["failed"]) == (9, 0, 0)
    assert one["size_bytes"] is None or one["size_bytes"] > 1_000
    assert (await ask(served, "GET", "/collections"))["collections"] == [one]


# --- aliases


async def test_an_alias_stands_for_a_collection_and_is_switched(served: Any) -> None:
    await served.load(*documents(2), collection="one")
    await served.load({"id": "new", "text": "word1"}, collection="two")
    assert await ask(served, "PUT", "/aliases/live", {"collection": "one"}, status=201) == {
        "alias": "live",
        "collection": "one",
    }
    assert await hits(served, "live") == ["d001", "d000"]
    read = await ask(served, "GET", "/collections/live/documents/d001")
    assert read["text"] == "word1"
    assert (await ask(served, "GET", "/collections/live"))["name"] == "one"
    accepted = await served.client.post("/collections/live/documents?wait=true", json=documents(3)[2:])
    assert accepted.json()["job"]["collection"] == "one"
    await ask(served, "PUT", "/aliases/live", {"collection": "two"})
    assert await hits(served, "live") == ["new"]
    assert (await ask(served, "GET", "/collections/two"))["aliases"] == ["live"]
    assert (await ask(served, "GET", "/collections/one"))["aliases"] == []
    assert (await ask(served, "GET", "/aliases"))["aliases"] == [{"alias": "live", "collection": "two"}]
    deleted = await served.client.post("/collections/live/documents/delete?wait=true", json={"ids": ["new"]})
    assert deleted.status_code == 200
    assert await hits(served, "live") == []
    await ask(served, "DELETE", "/aliases/live", status=204)
    await ask(served, "GET", "/collections/live", status=404)
    await ask(served, "DELETE", "/aliases/live", status=404)
    assert len(await hits(served, "one")) == 3


async def test_an_alias_switched_under_searches_answers_from_either_collection(served: Any) -> None:
    """Never from both, and never with an error."""
    for name in ("one", "two"):
        texts = [{**document, "id": f"{name}-{document['id']}"} for document in documents(8)]
        await served.load(*texts, collection=name)
    await ask(served, "PUT", "/aliases/live", {"collection": "one"}, status=201)
    answered: list[set[str]] = []
    switches = 0

    async def search(number: int) -> None:
        for turn in range(15):
            options: dict[str, Any] = [{}, {"offset": 2}, {"mode": "hybrid"}, {"group_by": "region"}][
                (number + turn) % 4
            ]
            body = {"collection": "live", "query": {"text": "word1"}, "limit": 5, **options}
            answer = await ask(served, "POST", "/search", body)
            hits = [*answer["hits"], *(hit for group in answer.get("groups") or [] for hit in group["hits"])]
            answered.append({hit["id"].partition("-")[0] for hit in hits})

    async def switch() -> None:
        nonlocal switches
        while not all(search.done() for search in searches):
            switches += 1
            await ask(served, "PUT", "/aliases/live", {"collection": ("one", "two")[switches % 2]})

    searches = [asyncio.create_task(search(number)) for number in range(6)]
    await asyncio.gather(switch(), *searches)
    assert len(answered) == 90
    assert {frozenset(names) for names in answered} == {frozenset({"one"}), frozenset({"two"})}
    assert switches > 2


async def test_an_alias_is_no_collection(served: Any) -> None:
    await served.load(*documents(2), collection="one")
    await ask(served, "PUT", "/aliases/live", {"collection": "one"}, status=201)
    for method, body in (("PUT", {}), ("PATCH", {}), ("DELETE", None)):
        refused = await ask(served, method, "/collections/live", body, status=409)
        assert "'live' is an alias of collection 'one'" in refused["detail"]
    await ask(served, "PUT", "/aliases/one", {"collection": "one"}, status=409)
    await ask(served, "PUT", "/aliases/second", {"collection": "live"}, status=404)
    await ask(served, "PUT", "/aliases/Live", {"collection": "one"}, status=422)
    assert len(await hits(served, "one")) == 2
    await ask(served, "DELETE", "/collections/one", status=204)
    assert (await ask(served, "GET", "/aliases"))["aliases"] == []


# --- deletion by filter


async def test_documents_are_deleted_by_filter(served: Any) -> None:
    await served.load(*documents(600))
    path = "/collections/flags/documents/delete?wait=true"
    job = (await ask(served, "POST", path, {"filter": {"field": "region", "equals": "Asia"}}))["job"]
    assert (job["kind"], job["state"], job["accepted"], job["indexed"]) == ("delete", "succeeded", 300, 300)
    assert (await ask(served, "GET", "/collections/flags"))["documents"] == 300
    assert await hits(served, "flags", filter={"field": "region", "equals": "Asia"}) == []
    again = (await ask(served, "POST", path, {"filter": {"field": "region", "equals": "Asia"}}))["job"]
    assert (again["state"], again["accepted"]) == ("succeeded", 0)


async def test_a_deletion_by_filter_keeps_its_place_among_the_writes(served: Any, runtime: Any) -> None:
    """Promise 4. The model is held: the write before it is still waiting, the one behind it is accepted."""
    await served.load(*documents(2))
    runtime.gate.clear()
    before = await ask(served, "POST", "/collections/flags/documents", [{"id": "d000", "text": "before"}], status=202)
    delete = {"filter": {"field": "region", "exists": True}}
    deleted = await ask(served, "POST", "/collections/flags/documents/delete", delete, status=202)
    after = await ask(served, "POST", "/collections/flags/documents", [{"id": "d001", "text": "after"}], status=202)
    runtime.gate.set()
    for accepted in (before, deleted, after):
        assert (await served.parts.progress.wait(accepted["job"]["id"], 10)).state == "succeeded"
    await ask(served, "GET", "/collections/flags/documents/d000", status=404)
    assert (await ask(served, "GET", "/collections/flags/documents/d001"))["text"] == "after"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"ids": ["a"], "filter": {"field": "a", "equals": 1}}, 422),
        ({"ids": []}, 422),
        ({"filter": {}}, 400),
        ({"filter": {"field": "a", "nearly": 1}}, 400),
    ],
)
async def test_a_deletion_of_nothing_in_particular_is_refused(served: Any, body: Any, status: int) -> None:
    await served.load(*documents(2))
    await ask(served, "POST", "/collections/flags/documents/delete", body, status=status)
    assert (await ask(served, "GET", "/collections/flags"))["documents"] == 2
    assert (await ask(served, "GET", "/jobs?collection=flags"))["jobs"][0]["kind"] == "documents"


async def test_a_collection_whose_points_are_lost_is_no_unknown_one(served: Any) -> None:
    """Every call says what to do, the other collection goes on, and a repeated PUT makes no empty one."""
    for name in ("lost", "kept"):
        await ask(served, "PUT", f"/collections/{name}", {"indexes": {"region": "keyword"}}, status=201)
        await ask(served, "POST", f"/collections/{name}/documents?wait=true", documents())
    await served.parts.store.drop("lost")
    lost, query = "/collections/lost", {"collection": "lost", "query": {"text": "word1"}}
    for method, path, body in (
        ("GET", lost, None),
        ("PUT", lost, {}),
        ("PATCH", lost, {"limit": 3}),
        ("GET", f"{lost}/documents/d001", None),
        ("POST", f"{lost}/documents/scroll", {}),
        ("POST", f"{lost}/documents/get", {"ids": ["d001"]}),
        ("POST", f"{lost}/count", {}),
        ("POST", f"{lost}/facets", {"fields": ["region"]}),
        ("POST", "/search", query),
        ("POST", "/search", query | {"sort": [{"field": "region"}]}),
    ):
        problem = await ask(served, method, path, body, status=503)
        assert problem["code"] == "dependency_unavailable"
        assert "restore a backup, or delete it and index its documents again" in problem["detail"]
    (listed,) = [
        entry for entry in (await ask(served, "GET", "/collections"))["collections"] if entry["name"] == "lost"
    ]
    assert "restore a backup" in listed["error"]["detail"]
    assert await hits(served, "kept", limit=1)
    await ask(served, "DELETE", lost, status=204)
    await ask(served, "PUT", lost, {}, status=201)


async def test_a_damaged_collection_is_marked_in_the_list_and_the_others_go_on(
    serve: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    store = EdgeStore(folder)
    served = await serve(store=store)
    for name in ("a", "b"):
        await served.client.put(f"/collections/{name}")
        response = await served.client.post(
            f"/collections/{name}/documents?wait=true", json=[{"id": "x", "text": "red"}]
        )
        assert response.status_code == 200
    os.kill(store._child._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    (folder / "a" / "collection.json").write_text("")
    listed = (await served.client.get("/collections")).json()["collections"]
    errors = {collection["name"]: collection["error"] for collection in listed}
    assert errors["b"] is None
    assert errors["a"]["code"] == "dependency_unavailable"
    assert str(folder / "a") in errors["a"]["detail"]
    assert {collection["name"]: collection["documents"] for collection in listed} == {"a": 0, "b": 1}
    search = {"query": {"text": "red"}}
    assert (await served.client.post("/search", json={**search, "collection": "b"})).status_code == 200
    response = await served.client.post("/search", json={**search, "collection": "a"})
    assert response.status_code == 503
    assert "collection a cannot be opened" in response.json()["detail"]
    assert (await served.client.get("/collections/a")).status_code == 503
    response = await served.client.post("/collections/b/documents?wait=true", json=[{"id": "y", "text": "blue"}])
    assert response.json()["results"][0]["status"] == "indexed"


async def test_a_list_of_collections_is_one_call_of_the_store(
    serve: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be before every search in the one queue of the store, four calls for each collection."""
    calls: list[int] = []

    class CountingStore(FakeStore):
        async def summaries(self, names: Sequence[str]) -> Any:
            calls.append(len(names))
            return await super().summaries(names)

    served = await serve(store=CountingStore())
    for number in range(20):
        await served.client.put(f"/collections/c{number}")
    calls.clear()
    lists = await asyncio.gather(*(served.client.get("/collections") for _ in range(3)))
    assert [len(listed.json()["collections"]) for listed in lists] == [20] * 3
    assert calls == [20] * 3
