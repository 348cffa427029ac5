"""`explain` over HTTP: with a fake model whose shares are known, and with the bundled one on flags."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from needs import needed

from model.evaluation.atlas import Atlas
from model.types import Limits
from service.api.app import create_app
from service.settings import Settings
from service.wiring import build

Make = Callable[..., bytes]


def layers(image: float) -> dict[str, Any]:
    return {"layers": [{"layer": n, "text": 1 - image, "image": image} for n in (0, 1)]}


def image(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


async def explained(client: httpx.AsyncClient, query: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    body = {"collection": "flags", "query": query, "explain": True, **options}
    response = await client.post("/search", json=body)
    assert response.status_code == 200, response.text
    hits: list[dict[str, Any]] = response.json()["hits"]
    return hits


async def test_shares_of_document_and_query_and_what_each_half_finds(
    served: Any, runtime: Any, make_image: Make
) -> None:
    red, blue = image(make_image("red")), image(make_image("blue"))
    await served.load(
        {"id": "both", "text": "sea", "image": blue}, {"id": "text", "text": "sea"}, {"id": "image", "image": red}
    )
    forwards = len(runtime.batches)
    hits = {hit["id"]: hit for hit in await explained(served.client, {"text": "sea", "image": red})}
    assert "vector" not in hits["both"]
    assert {name: hit["explanation"]["document"] for name, hit in hits.items()} == {
        "both": layers(0.25),
        "text": layers(0.0),
        "image": layers(1.0),
    }
    for name, without_text, without_image in (("text", None, 1.0), ("image", 1.0, None), ("both", None, None)):
        why = hits[name]["explanation"]
        assert why["query"] == layers(0.25)
        assert why["lexical"] is None
        for part, known in (("without_text", without_text), ("without_image", without_image)):
            if known is not None:
                assert why[part] == pytest.approx(known, abs=1e-5)
    assert hits["both"]["explanation"]["without_image"] > hits["both"]["score"]
    assert sum(len(batch) for batch in runtime.batches[forwards:]) == 3  # the query and its halves, each once


async def test_a_query_of_one_part_has_no_halves(served: Any, runtime: Any, make_image: Make) -> None:
    await served.load({"id": "text", "text": "sea"})
    for query, share in (({"text": "sea"}, 0.0), ({"image": image(make_image("red"))}, 1.0)):
        forwards = len(runtime.batches)
        (hit,) = await explained(served.client, query)
        why = hit["explanation"]
        assert (why["query"], why["without_text"], why["without_image"]) == (layers(share), None, None)
        assert runtime.batches[forwards:] == [[query.get("text", "")]]


async def test_a_document_as_the_query_is_explained_by_what_was_kept(served: Any, make_image: Make) -> None:
    await served.load({"id": "a", "text": "sea", "image": image(make_image("blue"))}, {"id": "b", "text": "sea"})
    (hit,) = await explained(served.client, {"document_id": "a"}, with_vector=True)
    assert len(hit["vector"]) == 64
    assert hit["explanation"]["query"] == layers(0.25)
    assert hit["explanation"]["document"] == layers(0.0)
    assert hit["explanation"]["without_image"] is None


async def test_what_was_indexed_before_has_no_shares(served: Any) -> None:
    from indexer.domain.points import Point

    await served.load({"id": "new", "text": "sea"})
    old = Point("old", np.eye(64, dtype=np.float32)[0], "lake", None, {}, "hash")
    await served.parts.store.points("flags").upsert([old])
    hits = {hit["id"]: hit["explanation"]["document"] for hit in await explained(served.client, {"text": "sea"})}
    assert hits == {"new": layers(0.0), "old": None}


async def test_unasked_nothing_is_explained(served: Any, make_image: Make, runtime: Any) -> None:
    await served.load({"id": "a", "text": "sea"})
    forwards = len(runtime.batches)
    body = {"collection": "flags", "query": {"text": "sea", "image": image(make_image("red"))}}
    (hit,) = (await served.client.post("/search", json=body)).json()["hits"]
    assert "explanation" not in hit
    assert runtime.batches[forwards:] == [["sea"]]
    assert "shares" not in hit["metadata"]


@pytest.fixture
async def bundled(tmp_path: Path, need: Callable[[bool, str], None]) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application over the bundled model."""
    runtime_module = needed("service.encoder.runtime")
    from model.errors import InvalidInput
    from model.retriever import Retriever

    try:
        retriever = Retriever.load("bundled")
    except (InvalidInput, ImportError) as error:
        need(False, f"the bundled model: {error}")
    parts = build(Settings(data_dir=tmp_path), runtime_module.LocalRuntime(retriever, Limits()))
    app = create_app(parts)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        yield await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=60)
        )


async def test_the_picture_decides_on_flags(bundled: httpx.AsyncClient) -> None:
    """Which countries lie next to "this country" only the flag says: without it the right passage scores lower, every time."""
    atlas = Atlas.read()
    rows = [row for row in atlas.queries if row.split == "heldout" and row.part == "flags"][::30]
    assert len(rows) > 10
    await bundled.put("/collections/flags")
    right = [atlas.by_id[row.positive_id] for row in rows]
    documents = [
        {"id": each.id, "text": each.text, "image": image(atlas.images[each.image_id])}
        for each in {each.id: each for each in right}.values()
    ]
    posted = await bundled.post("/collections/flags/documents", params={"wait": True}, json=documents)
    assert posted.json()["job"]["indexed"] == len(documents), posted.text
    for row in rows:
        query = {"text": row.question, "image": image(atlas.images[row.heldout_image_id])}
        hits = {hit["id"]: hit for hit in await explained(bundled, query, limit=len(documents))}
        hit = hits[row.positive_id]
        assert hit["explanation"]["without_image"] < hit["score"], row.id
        for side in ("query", "document"):
            assert all(0.02 < layer["image"] < 0.98 for layer in hit["explanation"][side]["layers"])
