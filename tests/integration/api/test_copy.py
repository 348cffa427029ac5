"""Copies of collections: the same documents with the same vectors, pictures and metadata, and nothing embedded."""

import base64
from typing import Any

from indexer.domain.documents import point_id

DOCUMENTS = [{"id": f"d{n}", "text": f"number {n}", "metadata": {"even": n % 2 == 0}} for n in range(9)]
EVEN = {"field": "even", "equals": True}


async def documents(served: Any, collection: str) -> list[dict[str, Any]]:
    body = {"with_vector": True, "limit": 1000}
    answer = await served.client.post(f"/collections/{collection}/documents/scroll", json=body)
    assert answer.status_code == 200, answer.text
    read: list[dict[str, Any]] = answer.json()["documents"]
    return [
        {name: value for name, value in document.items() if name not in ("image_url", "thumbnail_url")}
        | {"image": (document["image_url"] or "").partition("?")[2]}
        for document in read
    ]


async def copy(served: Any, to: str, **body: Any) -> Any:
    return await served.client.post("/collections/flags/copy?wait=true", json={"to": to, **body})


async def test_a_copy_has_the_same_documents_and_no_model_is_asked(served: Any, runtime: Any, make_image: Any) -> None:
    image = {"base64": base64.b64encode(make_image("red")).decode()}
    settings = {"indexes": {"even": "bool"}, "limit": 7, "language": "english", "instruction": "Find:"}
    await served.client.put("/collections/flags", json=settings)
    await served.load(*DOCUMENTS, {"id": "red", "image": image})
    runtime.gate.clear()
    try:
        answer = await copy(served, "copy")
        assert (answer.status_code, answer.json()["job"]["indexed"]) == (200, 10)
        assert (answer.json()["job"]["collection"], answer.json()["job"]["kind"]) == ("copy", "copy")
        half = await copy(served, "half", filter=EVEN)
        assert half.json()["job"]["indexed"] == 5
    finally:
        runtime.gate.set()
    assert await documents(served, "copy") == await documents(served, "flags")
    assert (await served.client.get("/collections/copy/documents/red/image")).status_code == 200
    copied = (await served.client.get("/collections/copy")).json()
    assert {name: copied[name] for name in settings} == settings
    assert [document["id"] for document in await documents(served, "half")] == sorted(
        (f"d{n}" for n in range(0, 9, 2)), key=point_id
    )
    hits = await served.client.post(
        "/search", json={"collection": "half", "query": {"text": "number"}, "mode": "lexical"}
    )
    assert len(hits.json()["hits"]) == 5


async def test_a_copy_again_skips_what_is_there_and_writes_what_has_changed(served: Any) -> None:
    await served.load(*DOCUMENTS)
    await copy(served, "copy")
    await served.client.patch("/collections/flags/documents/d1?wait=true", json={"metadata": {"new": 1}})
    await served.client.patch("/collections/copy/documents/d2?wait=true", json={"metadata": {"own": 1}})
    again = (await copy(served, "copy")).json()["job"]
    assert (again["indexed"], again["skipped"]) == (2, 7)
    assert await documents(served, "copy") == await documents(served, "flags")


async def test_copies_that_cannot_be(served: Any) -> None:
    await served.load(*DOCUMENTS)
    await served.client.put("/aliases/nations", json={"collection": "flags"})
    for to, status, words in (
        ("flags", 400, "to itself"),
        ("nations", 400, "is an alias of 'flags'"),
        ("No Name", 422, "must be 1 to 63"),
    ):
        refused = await copy(served, to)
        assert (refused.status_code, words in refused.json()["detail"]) == (status, True), refused.text
    missing = await served.client.post("/collections/nothing/copy", json={"to": "copy"})
    assert missing.status_code == 404
    assert (await served.client.get("/collections/copy")).status_code == 404, "nothing is half done"
