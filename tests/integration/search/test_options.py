"""What /search can be asked beside a query, over HTTP, with Qdrant Edge and with the server store: the same answers."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.store.edge import client
from indexer.store.edge.calls import Request
from indexer.store.edge.client import EdgePoints, EdgeStore
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerPoints, ServerStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

WORDS = ["red", "blue", "white", "green", "yellow", "star", "cross", "circle", "stripes", "moon"]
REGIONS = ["Europe", "Asia", "Africa", None]


def documents() -> list[dict[str, Any]]:
    """Forty, of three words each; no two alike."""
    return [
        {
            "id": f"d{i:02}",
            "text": f"{WORDS[i % 10]} {WORDS[(i * 3 + i // 10) % 10]} {WORDS[(i * 7 + 1) % 10]}",
            "metadata": {"region": REGIONS[i % 4], "n": i, "author": {"name": f"a{i % 3}", "age": i}},
        }
        for i in range(40)
    ]


@pytest.fixture(params=["edge", "server"])
async def served(request: pytest.FixtureRequest, serve: Callable[..., Awaitable[Any]]) -> Any:
    """The forty documents in the collection `flags`."""
    store = ServerStore(ServerStoreSettings(":memory:")) if request.param == "server" else None
    served = await serve(store=store, max_search_hits=50, max_search_depth=60, request_timeout_s=20)
    await served.load(*documents())
    return served


async def search(served: Any, query: dict[str, Any], **options: Any) -> dict[str, Any]:
    response = await served.client.post("/search", json={"collection": "flags", "query": query, **options})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def same(hits: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """The store of the client in memory computes with other last digits from call to call."""

    def rounded(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**hit, "score": pytest.approx(hit["score"], abs=1e-5)} for hit in some]

    return hits == rounded(others)


def ids(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["id"] for hit in hits]


async def vectors(served: Any, *ids: str) -> list[Any]:
    found = [await served.client.get(f"/collections/flags/documents/{one}?with_vector=true") for one in ids]
    return [np.array(one.json()["vector"]) for one in found]


async def encoded(served: Any, *texts: str) -> list[Any]:
    body = {"role": "query", "inputs": [{"text": text} for text in texts]}
    results = (await served.client.post("/encode", json=body)).json()["results"]
    return [np.array(one["embedding"]) for one in results]


async def ranked(served: Any, vector: Any, *left_out: str) -> list[str]:
    """By the plain formula, over all documents."""
    everything = [one["id"] for one in documents()]
    scores = np.array(await vectors(served, *everything)) @ vector
    order = sorted(zip(everything, scores, strict=True), key=lambda one: (-round(one[1], 5), one[0]))
    return [one for one, _ in order if one not in left_out]


# --- examples


async def test_examples_are_averaged_and_left_out(served: Any) -> None:
    a, b, c = await vectors(served, "d01", "d02", "d03")
    red, moon = await encoded(served, "red", "moon")
    cases: list[tuple[dict[str, Any], Any, list[str]]] = [
        ({"positive": ["d01", "d02"]}, (a + b) / 2, ["d01", "d02"]),
        ({"document_id": "d01", "positive": ["d02"]}, (a + b) / 2, ["d01", "d02"]),
        ({"document_id": "d01", "negative": ["d03"]}, 2 * a - c, ["d01", "d03"]),
        ({"text": "red", "negative": ["d03", {"text": "moon"}]}, 2 * red - (c + moon) / 2, ["d03"]),
        ({"text": "red", "positive": [{"text": "moon"}, "d02"]}, (red + moon + b) / 3, ["d02"]),
        ({"positive": [{"text": "moon"}], "negative": [{"text": "red"}]}, 2 * moon - red, []),
    ]
    for query, vector, left_out in cases:
        hits = (await search(served, query, limit=40))["hits"]
        assert set(ids(hits)) == {one["id"] for one in documents()} - set(left_out), query
        wanted = await ranked(served, vector, *left_out)
        assert ids(hits)[:5] == wanted[:5], query
        unit = vector / np.linalg.norm(vector)
        (first,) = await vectors(served, hits[0]["id"])
        assert hits[0]["score"] == pytest.approx(float(first @ unit), abs=1e-4)


async def test_the_instruction_goes_before_each_text_and_one_call_embeds_all(served: Any, runtime: Any) -> None:
    await search(served, {"text": "red", "instruction": "find", "positive": [{"text": "blue"}], "negative": ["d01"]})
    assert runtime.batches[-1] == ["find red", "find blue"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"negative": ["d01"]}, "negative examples are not enough"),
        ({"document_id": "d01", "text": "red"}, "name the document in `positive`"),
        ({"positive": ["d01"], "instruction": "find"}, "the query has only stored documents"),
        ({"positive": [{}]}, "query.positive[0]: neither text nor image"),
        ({"positive": [7]}, "query.positive[0]"),
        ({"positive": ["d01"] * 17}, "query.positive"),
        ({"negative": [{"text": "a", "txt": "b"}], "text": "red"}, "query.negative[0].txt: no such field"),
    ],
)
async def test_examples_that_say_nothing_are_refused(served: Any, query: dict[str, Any], says: str) -> None:
    response = await served.client.post("/search", json={"collection": "flags", "query": query})
    assert response.status_code == 422
    assert says in response.json()["detail"]


async def test_an_example_that_is_not_there_is_named(served: Any) -> None:
    body = {"collection": "flags", "query": {"text": "red", "negative": ["d01", "none"]}}
    response = await served.client.post("/search", json=body)
    assert (response.status_code, response.json()["errors"][0]["value"]) == (404, "none")


# --- pages


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ({"text": "red star"}, {}),
        ({"document_id": "d07"}, {}),
        ({"text": "red", "negative": ["d05"]}, {}),
        ({"text": " ".join(WORDS)}, {"mode": "lexical"}),
        ({"text": "red star"}, {"mode": "hybrid"}),
    ],
)
async def test_a_cursor_leads_through_the_whole_ranking(
    served: Any, query: dict[str, Any], mode: dict[str, Any]
) -> None:
    whole = await search(served, query, limit=40, **mode)
    assert whole["cursor"] is None
    found, cursor, pages = [], None, 0
    while cursor is not None or pages == 0:
        begin = {"cursor": cursor} if cursor else {}
        page = await search(served, query, limit=7, **begin, **mode)
        found, cursor, pages = found + page["hits"], page["cursor"], pages + 1
    assert same(found, whole["hits"])
    assert pages == 6
    second = await search(served, query, limit=7, offset=7, **mode)
    assert same(second["hits"], whole["hits"][7:14])
    third = await search(served, query, limit=3, cursor=second["cursor"], **mode)
    assert same(third["hits"], whole["hits"][14:17])


async def test_a_cursor_goes_on_though_documents_came_and_went(served: Any) -> None:
    first = await search(served, {"text": "red star"}, limit=10)
    rest = (await search(served, {"text": "red star"}, limit=40))["hits"][10:]
    gone = ids(first["hits"])[5:]
    await served.client.post("/collections/flags/documents/delete?wait=true", json={"ids": gone})
    await served.load(*({"id": f"new{i}", "text": f"red star {i}"} for i in range(3)))
    second = await search(served, {"text": "red star"}, limit=50, cursor=first["cursor"])
    assert [one for one in ids(second["hits"]) if not one.startswith("new")] == ids(rest)
    assert second["cursor"] is None


MODES: list[dict[str, Any]] = [
    {"mode": "fused"},
    {"mode": "lexical"},
    {"mode": "hybrid"},
    {"mode": "hybrid", "fusion": {"method": "weighted", "weight": 0.3}},
]


@pytest.mark.parametrize("mode", MODES, ids=["fused", "lexical", "rrf", "weighted"])
async def test_a_cursor_goes_on_though_the_document_that_it_remembers_has_gone(
    served: Any, mode: dict[str, Any]
) -> None:
    query = {"text": "red"}  # of one word, so that BM25's order stays when its IDF changes
    whole = ids((await search(served, query, limit=40, **mode))["hits"])
    page = await search(served, query, limit=4, **mode)
    found = ids(page["hits"])
    await served.client.post("/collections/flags/documents/delete?wait=true", json={"ids": found[-1:]})
    while page["cursor"] is not None:
        page = await search(served, query, limit=4, cursor=page["cursor"], **mode)
        found += ids(page["hits"])
    if mode["mode"] == "hybrid":  # whose ranks have moved
        assert len(set(whole) - set(found)) + len(found) - len(set(found)) <= 3
    else:
        assert found == whole


async def test_a_cursor_belongs_to_its_search(served: Any) -> None:
    filter_ = {"field": "n", "gte": 2}
    cursor = (await search(served, {"text": "red"}, limit=2, filter=filter_))["cursor"]
    same = {"filter": filter_, "cursor": cursor}
    await search(served, {"text": "red"}, limit=5, with_vector=True, metadata_fields=False, **same)
    for query, options in (
        ({"text": "blue"}, same),
        ({"text": "red"}, {"cursor": cursor}),
        ({"text": "red"}, {**same, "score_threshold": 0.1}),
    ):
        response = await served.client.post("/search", json={"collection": "flags", "query": query, **options})
        assert response.status_code == 400
        assert "another search" in response.json()["detail"]
    await served.client.delete("/collections/flags")
    await served.load(*({"id": f"n{n}", "text": "red", "metadata": {"n": n}} for n in range(9)))
    body = {"collection": "flags", "query": {"text": "red"}, "limit": 2, **same}
    response = await served.client.post("/search", json=body)
    assert response.status_code == 400
    assert "deleted or replaced since" in response.json()["detail"]


@pytest.mark.parametrize(
    ("options", "status", "field"),
    [
        ({"limit": 51}, 400, "limit"),
        ({"limit": 10, "offset": 51}, 400, "offset"),
        ({"limit": 50, "offset": 2**60}, 400, "offset"),
        ({"limit": 26, "group_by": "n", "group_size": 2}, 400, "group_size"),
        ({"timeout_s": 20.5}, 400, "timeout_s"),
        ({"cursor": "x"}, 400, "cursor"),
        ({"group_by": "a..b"}, 400, "group_by"),
        ({"cursor": "x", "offset": 1}, 422, ""),
        ({"group_size": 2}, 422, ""),
        ({"group_by": "n", "offset": 1}, 422, ""),
        ({"group_by": "n", "cursor": "x"}, 422, ""),
        ({"group_by": "n", "limit": 51}, 400, "limit"),
        ({"timeout_s": 0.9}, 422, "timeout_s"),
        ({"consistency": "most"}, 422, "consistency"),
        ({"metadata_fields": [""]}, 422, "metadata_fields"),
    ],
)
async def test_what_does_not_go_together_or_is_too_much_is_refused(
    served: Any, options: dict[str, Any], status: int, field: str
) -> None:
    body = {"collection": "flags", "query": {"text": "red"}, **options}
    response = await served.client.post("/search", json=body)
    assert response.status_code == status, response.text
    assert response.json()["errors"][0]["field"].startswith(field)
    (item,) = (await served.client.post("/search/batch", json={"searches": [body]})).json()["results"]
    assert item["error"]["code"] == "invalid_input"


async def test_a_walk_to_the_end_of_its_depth_says_so(served: Any) -> None:
    await served.load(*({"id": f"more{i:02}", "text": f"red {i}"} for i in range(30)))
    page = await search(served, {"text": "red"}, limit=50)
    response = await served.client.post(
        "/search", json={"collection": "flags", "query": {"text": "red"}, "limit": 20, "cursor": page["cursor"]}
    )
    assert response.status_code == 400
    assert "only the first 60 hits can be read" in response.json()["detail"]
    assert len((await search(served, {"text": "red"}, limit=10, cursor=page["cursor"]))["hits"]) == 10


# --- groups


async def test_groups(served: Any) -> None:
    hits = (await search(served, {"text": "red star"}, limit=40))["hits"]
    answer = await search(served, {"text": "red star"}, group_by="region", group_size=3)
    assert (answer["hits"], answer["cursor"]) == ([], None)
    order = list(dict.fromkeys(hit["metadata"]["region"] for hit in hits if hit["metadata"]["region"]))
    assert [group["value"] for group in answer["groups"]] == order
    for group in answer["groups"]:
        assert same(group["hits"], [hit for hit in hits if hit["metadata"]["region"] == group["value"]][:3])
    two = await search(served, {"text": "red star"}, group_by="author.name", limit=2, metadata_fields=["author.name"])
    assert [len(group["hits"]) for group in two["groups"]] == [1, 1]
    assert two["groups"][0]["hits"][0]["metadata"] == {"author": {"name": two["groups"][0]["value"]}}
    narrowed = await search(served, {"text": "red"}, group_by="region", filter={"field": "n", "lt": 2})
    assert {group["value"] for group in narrowed["groups"]} == {"Europe", "Asia"}
    assert (await search(served, {"text": "red"}, group_by="author"))["groups"] == []


# --- what hits hold, time, consistency


async def test_metadata_fields(served: Any) -> None:
    for fields, wanted in (
        (True, {"region": "Asia", "n": 1, "author": {"name": "a1", "age": 1}}),
        (False, {}),
        (["n", "author.name", "absent"], {"n": 1, "author": {"name": "a1"}}),
    ):
        answer = await search(
            served, {"document_id": "d02"}, limit=1, metadata_fields=fields, filter={"field": "n", "equals": 1}
        )
        assert answer["hits"][0]["metadata"] == wanted
        assert answer["hits"][0]["text"] == documents()[1]["text"]


async def test_a_search_has_its_own_time(served: Any, runtime: Any) -> None:
    runtime.gate.clear()
    body = {"collection": "flags", "query": {"text": "slow"}, "timeout_s": 1}
    response = await served.client.post("/search", json=body)
    assert response.status_code == 504
    assert "no answer within 1 s" in response.json()["detail"]
    assert "retry-after" in response.headers
    waits = {"collection": "flags", "query": {"document_id": "d01"}}
    results = (await served.client.post("/search/batch", json={"searches": [body, waits]})).json()["results"]
    assert results[0]["error"]["code"] == "timed_out"
    assert len(results[1]["hits"]) == 10
    runtime.gate.set()
    await search(served, {"text": "quick"}, timeout_s=20)


@pytest.mark.parametrize("options", [{}, {"mode": "lexical"}, {"mode": "hybrid"}])
async def test_the_store_is_told_how_long_anyone_waits(
    served: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    told: list[float] = []
    for kind in (EdgePoints, ServerPoints):
        for name in ("search", "rank"):
            monkeypatch.setattr(kind, name, noting(getattr(kind, name), told))
    await search(served, {"document_id": "d01"}, timeout_s=7, **options)
    assert told
    assert all(6 < each < 7 for each in told)
    told.clear()
    await search(served, {"document_id": "d01"}, **options)
    assert all(19 < each < 20 for each in told)


def noting(method: Any, told: list[float]) -> Any:
    async def noted(*arguments: Any, **options: Any) -> Any:
        told.append(arguments[-1].timeout_s)
        return await method(*arguments, **options)

    return noted


async def test_an_overdue_search_goes_on_in_no_store(
    serve: Callable[..., Awaitable[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight slices of 0.3 s each; at most four begin within the second. The search after them is one call more."""
    ask = client._Child.ask
    slices: list[None] = []

    def slow(child: Any, requests: Sequence[Request]) -> Iterator[Any]:
        if requests[0][0] == "ranked":
            time.sleep(0.3)
            slices.append(None)
        yield from ask(child, requests)

    monkeypatch.setattr(client._Child, "ask", slow)
    served = await serve(store=EdgeStore(tmp_path / "cut", reads_per_call=5))
    await served.load(*documents())
    body = {"collection": "flags", "query": {"document_id": "d01"}, "filter": {"field": "n", "gte": 0}, "timeout_s": 1}
    response = await served.client.post("/search", json=body)
    assert (response.status_code, response.json()["code"]) == (504, "timed_out")
    await search(served, {"document_id": "d01"})
    assert 3 <= len(slices) <= 5
    hits = (await search(served, {"document_id": "d01"}, filter={"field": "n", "gte": 0}))["hits"]
    assert len(hits) == 10


@pytest.mark.parametrize("consistency", ["one", "majority", "quorum", "all"])
async def test_any_consistency_is_answered(served: Any, consistency: str) -> None:
    plain = await search(served, {"text": "red"})
    assert same((await search(served, {"text": "red"}, consistency=consistency))["hits"], plain["hits"])
