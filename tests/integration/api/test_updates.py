"""Changes of documents that are there: one, many, and all that fulfil a filter."""

import base64
import json
from typing import Any

import numpy as np
import pytest

BOOT = {"id": "boot", "text": "hiking boot", "metadata": {"price": 120, "brand": {"name": "Fell", "since": 1971}}}
SHOE = {"id": "shoe", "text": "running shoe", "metadata": {"price": 80}}
LAMP = {"id": "lamp", "text": "desk lamp", "metadata": {"price": 30}}
DOCUMENTS = "/collections/flags/documents"


async def read(served: Any, key: str = "boot") -> dict[str, Any]:
    answer = await served.client.get(f"{DOCUMENTS}/{key}?with_vector=true")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def patch(served: Any, key: str, body: Any, **query: Any) -> Any:
    return await served.client.patch(f"{DOCUMENTS}/{key}", params={"wait": True, **query}, json=body)


async def test_one_document_changes_and_nothing_is_embedded(served: Any, make_image: Any) -> None:
    image = {"base64": base64.b64encode(make_image("red")).decode()}
    await served.load({**BOOT, "image": image})
    before = await read(served)
    answer = await patch(served, "boot", {"metadata": {"price": 99, "brand": {"since": None}, "new": [1]}})
    assert (answer.status_code, answer.json()["job"]["kind"], answer.json()["job"]["indexed"]) == (200, "update", 1)
    metadata = {"price": 99, "brand": {"name": "Fell"}, "new": [1]}
    assert await read(served) == {**before, "metadata": metadata}, "text, picture and vector are as they were"
    again = await patch(served, "boot", {"metadata": {"price": 99, "brand": {"since": None}, "new": [1]}})
    assert again.json()["job"]["skipped"] == 1
    whole = await served.load({**BOOT, "image": image, "metadata": metadata})
    assert whole["results"] == [{"id": "boot", "status": "skipped"}], "it is the document posted whole"
    whole = await served.load({**BOOT, "image": image})
    assert whole["results"] == [{"id": "boot", "status": "indexed"}], "a post replaces it whole"
    assert (await read(served))["metadata"] == BOOT["metadata"]


async def test_a_part_is_taken_away_and_the_rest_embedded_anew(served: Any, make_image: Any) -> None:
    image = {"base64": base64.b64encode(make_image("red")).decode()}
    both = {**BOOT, "image": image}
    await served.load(
        both, {**both, "id": "other"}, {"id": "text alone", "text": BOOT["text"]}, {"id": "image alone", "image": image}
    )
    assert (await patch(served, "boot", {"image": None, "metadata": {"price": 1}})).status_code == 200
    assert (await patch(served, "other", {"text": None})).status_code == 200
    boot, other = await read(served), await read(served, "other")
    assert (boot["image_url"], boot["text"], boot["metadata"]["price"]) == (None, BOOT["text"], 1)
    assert np.allclose(boot["vector"], (await read(served, "text alone"))["vector"], atol=1e-6)
    assert (other["text"], other["metadata"]) == (None, BOOT["metadata"])
    assert other["image_url"] is not None
    assert np.allclose(other["vector"], (await read(served, "image alone"))["vector"], atol=1e-6)
    refused = await patch(served, "boot", {"text": None})
    assert (refused.status_code, "delete the document instead" in refused.json()["detail"]) == (400, True)
    assert await read(served) == boot


async def test_many_documents_each_with_its_own_result(served: Any) -> None:
    await served.load(BOOT, SHOE)
    updates = [
        {"id": "boot", "metadata": {"price": 1}},
        {"id": "nobody", "metadata": {"price": 2}},
        {"id": "shoe", "metadata": {"price": 3}},
        {"id": "shoe", "metadata": {"colour": "red"}},
        {"id": "boot", "text": "a new text"},
        {"metadata": {"price": 3}},
    ]
    answer = await served.client.post(f"{DOCUMENTS}/update", params={"wait": True}, json=updates)
    assert answer.status_code == 200, answer.text
    results = {result["id"]: result for result in answer.json()["results"]}
    assert {key: result["status"] for key, result in results.items()} == {
        "boot": "indexed",
        "nobody": "failed",
        "shoe": "indexed",
    }
    assert results["nobody"]["error"]["code"] == "not_found"
    assert [rejected["position"] for rejected in answer.json()["rejected"]] == [4, 5]
    assert "can only be null here" in answer.json()["rejected"][0]["detail"]
    assert (await read(served))["metadata"]["price"] == 1
    assert (await read(served, "shoe"))["metadata"] == {"price": 3, "colour": "red"}
    lines = "".join(json.dumps({"id": key, "metadata": {"price": 7}}) + "\n" for key in ("boot", "shoe"))
    headers = {"content-type": "application/x-ndjson", "idempotency-key": "prices-1"}
    streamed = [
        await served.client.post(f"{DOCUMENTS}/update?wait=true", content=lines, headers=headers) for _ in range(2)
    ]
    assert streamed[0].json()["job"]["indexed"] == 2
    assert streamed[0].json()["job"]["id"] == streamed[1].json()["job"]["id"]


async def test_all_that_fulfil_a_filter_within_a_bound(serve: Any) -> None:
    served = await serve(max_updated_documents=2)
    await served.load(BOOT, SHOE, LAMP)
    body = {"filter": {"field": "price", "gte": 50}, "metadata": {"free_delivery": True}}
    answer = await served.client.post(f"{DOCUMENTS}/update", params={"wait": True}, json=body)
    assert (answer.status_code, answer.json()["job"]["indexed"]) == (200, 2)
    assert [(await read(served, key))["metadata"].get("free_delivery") for key in ("boot", "shoe", "lamp")] == [
        True,
        True,
        None,
    ]
    keyed = [
        await served.client.post(f"{DOCUMENTS}/update?wait=true", json=body, headers={"idempotency-key": "k"})
        for _ in range(2)
    ]
    assert keyed[0].json()["job"]["id"] == keyed[1].json()["job"]["id"]
    body = {"filter": {"field": "price", "gte": 1}, "metadata": {"price": 0}}
    other = await served.client.post(f"{DOCUMENTS}/update", json=body, headers={"idempotency-key": "k"})
    assert other.status_code == 409
    refused = await served.client.post(f"{DOCUMENTS}/update", json=body)
    assert (refused.status_code, refused.json()["errors"][0]["limit"]) == (413, 2)
    assert "3 documents or more, limit is 2" in refused.json()["detail"]
    assert (await read(served))["metadata"]["price"] == 120


async def test_what_is_not_there_is_404_unless_it_is_on_its_way(served: Any, runtime: Any) -> None:
    await served.load(BOOT)
    for wait in (True, False):
        assert (await patch(served, "nobody", {"metadata": {"price": 1}}, wait=wait)).status_code == 404
    runtime.gate.clear()
    await served.client.post(DOCUMENTS, json=[SHOE])
    accepted = await patch(served, "shoe", {"metadata": {"price": 1}}, wait=False)
    assert accepted.status_code == 202
    runtime.gate.set()
    assert (await patch(served, "shoe", {"metadata": {"colour": "red"}})).status_code == 200
    assert (await read(served, "shoe"))["metadata"] == {"price": 1, "colour": "red"}
    await served.client.delete(f"{DOCUMENTS}/shoe?wait=true")
    assert (await patch(served, "shoe", {"metadata": {"price": 1}})).status_code == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "nothing to change"),
        ({"text": None, "image": None}, "delete the document instead"),
        ({"text": "new"}, "can only be null here"),
        ({"metadata": {"a" * 200: 1}}, "1 to 128 characters"),
        ({"metadata": {"note": "x" * 70_000}}, "limit is 65536"),
        ({"metadata": [1]}, "valid dictionary"),
        ({"price": 3}, "no such field"),
    ],
)
async def test_wrong_changes_are_refused(served: Any, body: Any, words: str) -> None:
    await served.load(BOOT)
    refused = await patch(served, "boot", body)
    assert refused.status_code in (400, 413, 422)
    assert words in refused.json()["detail"]


async def test_metadata_do_not_grow_over_their_limit(serve: Any) -> None:
    served = await serve(max_metadata_bytes=200)
    await served.load(BOOT)
    assert (await patch(served, "boot", {"metadata": {"a": "x" * 100}})).status_code == 200
    refused = await patch(served, "boot", {"metadata": {"b": "x" * 100}})
    assert (refused.status_code, "limit is 200" in refused.json()["detail"]) == (413, True)
    assert "b" not in (await read(served))["metadata"]
