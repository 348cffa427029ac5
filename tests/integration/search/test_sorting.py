"""Sorting and facets over HTTP, with Qdrant Edge and with the server store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

SHOES = [
    {"id": "a", "text": "red shoe", "metadata": {"brand": "Ada", "price": 30}},
    {"id": "b", "text": "red boot", "metadata": {"brand": "Bell", "price": 10}},
    {"id": "c", "text": "blue boot", "metadata": {"brand": "Ada", "price": 20}},
    {"id": "d", "text": "green hat", "metadata": {"brand": "Ada"}},
]


@pytest.fixture(params=["edge", "server"])
async def shop(request: pytest.FixtureRequest, serve: Callable[..., Awaitable[Any]]) -> Any:
    store = ServerStore(ServerStoreSettings(":memory:")) if request.param == "server" else None
    served = await serve(store=store, max_search_depth=50)
    await served.client.put("/collections/shop", json={"indexes": {"price": "number", "place": "geo"}})
    await served.load(*SHOES, collection="shop")
    return served


async def post(shop: Any, path: str = "/search", status: int = 200, **body: Any) -> dict[str, Any]:
    body = body if path != "/search" else {"collection": "shop", **body}
    response = await shop.client.post(path, json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


BY_PRICE = [{"field": "price"}]


async def test_a_sort_without_a_query_lists_the_documents(shop: Any, runtime: Any) -> None:
    forwards = len(runtime.batches)
    assert ids(await post(shop, sort=BY_PRICE)) == ["b", "c", "a", "d"]
    assert ids(await post(shop, sort=[{"field": "price", "order": "desc"}])) == ["a", "c", "b", "d"]
    assert ids(await post(shop, sort=[{"field": "brand"}, *BY_PRICE], limit=3)) == ["c", "a", "d"]
    page = await post(
        shop, sort=BY_PRICE, limit=2, filter={"field": "brand", "equals": "Ada"}, metadata_fields=["brand"]
    )
    assert ids(page) == ["c", "a"]
    assert page["hits"][0]["score"] == 0
    assert page["hits"][0]["metadata"] == {"brand": "Ada"}
    assert ids(await post(shop, sort=BY_PRICE, offset=1, limit=2)) == ["c", "a"]
    assert len(runtime.batches) == forwards


async def test_cursors_walk_a_sorted_list_and_a_sorted_ranking(shop: Any) -> None:
    for query, whole in ((None, ["b", "c", "a", "d"]), ({"text": "red"}, ["b", "c", "a", "d"])):
        walked: list[str] = []
        body: dict[str, Any] = {"sort": BY_PRICE, "limit": 1} | ({} if query is None else {"query": query})
        cursor: str | None = None
        for _ in whole:
            page = await post(shop, **body, **({} if cursor is None else {"cursor": cursor}))
            walked += ids(page)
            cursor = page["cursor"]
        assert (walked, cursor) == (whole, None)


async def test_a_query_chooses_and_the_sort_orders(shop: Any) -> None:
    answer = await post(shop, query={"text": "red"}, mode="lexical", sort=BY_PRICE)
    assert ids(answer) == ["b", "a"]
    assert all(hit["score"] > 0 for hit in answer["hits"])
    batch = await post(shop, "/search/batch", searches=[{"collection": "shop", "sort": BY_PRICE, "limit": 1}])
    assert ids(batch["results"][0]) == ["b"]


async def test_facets_count_documents_of_a_filter_or_of_a_query(shop: Any) -> None:
    path = "/collections/shop/facets"
    answer = await post(shop, path, fields=["brand", "price"])
    assert answer["documents"] == 4
    brand, price = answer["facets"]
    assert brand["values"] == [{"value": "Ada", "count": 3}, {"value": "Bell", "count": 1}]
    assert (price["min"], price["max"], sum(bucket["count"] for bucket in price["histogram"])) == (10, 30, 3)
    one = await post(shop, path, fields=["brand"], limit=1, filter={"field": "price", "lt": 25})
    assert (one["documents"], one["facets"][0]["has_more"], len(one["facets"][0]["values"])) == (2, True, 1)
    red = await post(shop, path, fields=["brand"], query={"text": "red"}, mode="lexical")
    assert (red["documents"], red["facets"][0]["exact"]) == (2, True)
    assert {value["value"]: value["count"] for value in red["facets"][0]["values"]} == {"Ada": 1, "Bell": 1}
    like = await post(shop, path, fields=["brand"], query={"document_id": "a"})
    assert like["documents"] == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "or sort to list documents"),
        ({"sort": BY_PRICE, "mode": "lexical"}, "mode needs a query"),
        ({"sort": BY_PRICE, "query": {"text": "red"}, "group_by": "brand"}, "group_by goes without sort"),
        ({"sort": [{"field": "place"}]}, "places have no order"),
        ({"sort": [{"field": "a..b"}]}, "sort is empty, has an empty part"),
        ({"sort": [{"field": "price"}] * 5}, "at most 4"),
        ({"sort": BY_PRICE, "cursor": "WzEsMC4wLCJhIiwiYiJd"}, "cursor was not made by this service"),
    ],
)
async def test_a_sort_that_cannot_be_is_refused(shop: Any, body: dict[str, Any], words: str) -> None:
    response = await shop.client.post("/search", json={"collection": "shop", **body})
    assert response.status_code in (400, 422)
    assert words in response.text


async def test_a_cursor_of_another_sort_is_refused(shop: Any) -> None:
    cursor = (await post(shop, sort=BY_PRICE, limit=1))["cursor"]
    descending = [{"field": "price", "order": "desc"}]
    problem = await post(shop, sort=descending, cursor=cursor, status=400)
    assert "belongs to another search" in problem["detail"]
    path = "/collections/shop/facets"
    assert "places are not counted" in (await post(shop, path, fields=["place"], status=400))["detail"]
    many = await post(shop, path, fields=[f"f{n}" for n in range(17)], status=422)
    assert "at most 16" in many["detail"]
    assert (
        "mode and score_threshold need a query"
        in (await post(shop, path, fields=["a"], mode="fused", status=422))["detail"]
    )
    assert "at most 16" in str(await post(shop, path, fields=["f"] * 17, status=422))
    assert "need a query" in str(await post(shop, path, fields=["brand"], mode="lexical", status=422))


async def test_an_undeclared_field_is_read_up_to_a_number_of_documents(serve: Any) -> None:
    served = await serve(undeclared_filter_documents=3)
    await served.client.put("/collections/shop", json={"indexes": {"price": "number"}})
    documents = [{"id": f"d{n}", "text": "red", "metadata": {"price": n, "size": n}} for n in range(5)]
    await served.load(*documents, collection="shop")
    facets = "/collections/shop/facets"
    assert ids(await post(served, sort=BY_PRICE)) == [f"d{n}" for n in range(5)]
    by_size = [{"field": "size"}]
    for problem in (
        await post(served, sort=by_size, status=400),
        await post(served, facets, fields=["size"], status=400),
    ):
        assert "size" in problem["detail"]
        assert "indexes" in problem["detail"], problem["detail"]
    few = {"field": "price", "lt": 3}
    assert ids(await post(served, sort=by_size, filter=few)) == ["d0", "d1", "d2"]
    assert (await post(served, facets, fields=["size"], filter=few))["facets"][0]["max"] == 2
