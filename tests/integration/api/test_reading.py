"""Documents read without a model: list, scroll, get and count."""

from typing import Any

import numpy as np
import pytest

DOCUMENTS = [
    {"id": f"d{number}", "text": f"number {number}", "metadata": {"even": number % 2 == 0, "number": number}}
    for number in range(25)
]
EVEN = {"field": "even", "equals": True}


async def walked(served: Any, **body: Any) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    cursor = None
    while True:
        answer = await served.client.post("/collections/flags/documents/scroll", json={**body, "cursor": cursor})
        assert answer.status_code == 200, answer.text
        documents += answer.json()["documents"]
        cursor = answer.json()["cursor"]
        if cursor is None:
            return documents


async def test_listing_and_scrolling_ask_no_model(served: Any, runtime: Any) -> None:
    await served.load(*DOCUMENTS)
    runtime.gate.clear()
    try:
        everything = await walked(served, limit=4)
        assert sorted(document["id"] for document in everything) == sorted(document["id"] for document in DOCUMENTS)
        first = (await served.client.get("/collections/flags/documents?limit=10")).json()
        following = (await served.client.get(f"/collections/flags/documents?limit=100&cursor={first['cursor']}")).json()
        assert first["documents"] + following["documents"] == everything
        assert following["cursor"] is None
        even = await walked(served, limit=5, filter=EVEN, metadata_fields=["number"], with_vector=True)
        assert [document["id"] for document in even] == [
            document["id"] for document in everything if document["metadata"]["even"]
        ]
        assert all(set(document["metadata"]) == {"number"} for document in even)
        assert np.linalg.norm(even[0]["vector"]) == pytest.approx(1, abs=1e-5)
        count = await served.client.post("/collections/flags/count", json={"filter": EVEN})
        assert count.json() == {"count": 13}
        assert (await served.client.post("/collections/flags/count")).json() == {"count": 25}
    finally:
        runtime.gate.set()


async def test_documents_by_their_ids(served: Any) -> None:
    await served.load(*DOCUMENTS[:3])
    answer = await served.client.post("/collections/flags/documents/get", json={"ids": ["d2", "nothing", "d0", "d2"]})
    assert [document["id"] for document in answer.json()["documents"]] == ["d2", "d0"]
    assert answer.json()["missing"] == ["nothing"]
    assert answer.json()["documents"][0]["metadata"] == DOCUMENTS[2]["metadata"]


async def test_wrong_pages_are_refused_with_what_is_wrong(served: Any) -> None:
    await served.load(*DOCUMENTS[:3])
    cursor = (await served.client.get("/collections/flags/documents?limit=1")).json()["cursor"]
    await served.client.put("/collections/others")
    for path, body, status, words in (
        ("flags/documents/scroll", {"cursor": cursor, "filter": EVEN}, 400, "another collection or another filter"),
        ("others/documents/scroll", {"cursor": cursor}, 400, "another collection or another filter"),
        ("flags/documents/scroll", {"cursor": "nonsense"}, 400, "was not made by this call"),
        ("flags/documents/scroll", {"limit": 1001}, 422, "less than or equal to 1000"),
        ("flags/documents/get", {"ids": []}, 422, "at least 1"),
        ("flags/documents/get", {"ids": [f"d{n}" for n in range(1001)]}, 422, "at most 1000"),
        ("nothing/documents/scroll", {}, 404, "no collection 'nothing'"),
        ("flags/count", {"filter": {"field": "even"}}, 400, "filter"),
    ):
        refused = await served.client.post(f"/collections/{path}", json=body)
        assert refused.status_code == status, refused.text
        assert words in refused.json()["detail"], refused.text
    await served.client.delete("/collections/flags")
    await served.load(*DOCUMENTS[:3])
    refused = await served.client.get(f"/collections/flags/documents?cursor={cursor}")
    assert refused.status_code == 400, "the collection was made again"
    assert "deleted and made again" in refused.json()["detail"]


async def test_a_page_of_many_bytes_ends_early(serve: Any) -> None:
    served = await serve(max_answer_bytes=2000)
    await served.load(*({"id": f"d{n}", "text": "x" * 700} for n in range(5)))
    page = (await served.client.get("/collections/flags/documents")).json()
    assert len(page["documents"]) == 2
    assert page["cursor"] is not None
    assert len(await walked(served)) == 5
    too_many = await served.client.post("/collections/flags/documents/get", json={"ids": [f"d{n}" for n in range(5)]})
    assert too_many.status_code == 413
