"""POST …/reindex over the application: real queue, ledger, worker and Qdrant Edge, two fake models."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from checked_answers import checking
from fastapi import FastAPI

from model.types import Encoded, ModelInfo, Prepared
from service.api.app import create_app
from service.settings import Settings
from service.wiring import build

DOCUMENTS = [{"id": f"d{i}", "text": f"text {i}", "metadata": {"n": i, "x": 1.0}} for i in range(20)]
Start = Callable[..., Awaitable[httpx.AsyncClient]]


def other(runtime: Any) -> Any:
    """The same fake, but for its name and for vectors that point the other way."""

    class Other(type(runtime)):  # type: ignore[misc]
        info = ModelInfo("other", "other-fingerprint", runtime.info.dimensions, 1_000, 16)

        def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
            wait = super().launch(batch)
            return lambda: Encoded(-wait().vectors)

    return Other()


@pytest.fixture
async def start(runtime: Any, tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def started(next_runtime: Any = None, **settings: Any) -> httpx.AsyncClient:
            parts = build(Settings(data_dir=tmp_path, **settings), runtime, next_runtime or other(runtime))
            app: FastAPI = create_app(parts)
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            client = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://test", event_hooks=checking(app))
            )
            await client.put("/collections/c")
            loaded = await client.post("/collections/c/documents", params={"wait": True}, json=DOCUMENTS)
            assert loaded.json()["job"]["indexed"] == 20
            return client

        yield started


async def until(client: httpx.AsyncClient, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            answer = await client.get("/collections/c/reindex")
            found: dict[str, Any] = answer.json()
            if found.get("state", "gone") in states:
                return found
            await asyncio.sleep(0.02)


async def vectors(client: httpx.AsyncClient) -> list[list[float]]:
    body = {"collection": "c", "query": {"text": "text 3"}, "limit": 3, "with_vector": True}
    answer = await client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    hits = answer.json()["hits"]
    assert hits[0]["id"] == "d3"
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-5)
    return [hit["vector"] for hit in hits]


async def test_there_and_back(start: Start) -> None:
    client = await start()
    before = await vectors(client)
    answer = await client.post("/collections/c/reindex")
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    assert (job["kind"], job["collection"]) == ("reindex", "c")
    kept = await until(client, "kept")
    assert (kept["serving"]["model"], kept["other"]["model"], kept["job"]) == ("other", "fake", job["id"])
    assert (await client.get(f"/jobs/{job['id']}")).json()["state"] == "succeeded"
    np.testing.assert_allclose(await vectors(client), -np.asarray(before), atol=1e-6)
    collection = (await client.get("/collections/c")).json()
    assert (collection["model"], collection["documents"], collection["compatible"]) == ("other", 20, True)

    assert (await client.put("/collections/c")).status_code == 200
    again = await client.post("/collections/c/documents", params={"wait": True}, json=DOCUMENTS)
    assert again.json()["job"]["skipped"] == 20
    changed = [{"id": "d3", "text": "text 3", "metadata": {"new": True}}]
    assert (await client.post("/collections/c/documents", params={"wait": True}, json=changed)).status_code == 200

    assert (await client.post("/collections/c/reindex/rollback")).status_code == 202
    await until(client, "dropping", "gone")
    np.testing.assert_allclose(await vectors(client), before, atol=1e-6)
    assert (await client.get("/collections/c/documents/d3")).json()["metadata"] == {"new": True}


async def test_parts_images_and_changes_of_metadata_go_through(
    start: Start, runtime: Any, make_image: Callable[..., bytes]
) -> None:
    held = other(runtime)
    client = await start(held)
    path = "/collections/c/documents"
    pictures = [{"base64": base64.b64encode(make_image(colour)).decode()} for colour in ("red", "green", "blue")]
    # More than the model reads. The filter below does not match it, whether it has been changed by then or not.
    long = {"id": "long", "text": "Some words stand here. " * 60, "images": pictures, "metadata": {"n": 9, "x": 2}}
    await client.post(path, params={"wait": True}, json=[long])
    before = (await client.get(f"{path}/long?with_vector=true")).json()
    assert len(before["parts"]) > 3
    held.gate.clear()
    try:
        await client.post("/collections/c/reindex")
        changed = await client.patch(f"{path}/long", json={"metadata": {"n": 7, "x": None}})
        assert changed.status_code == 202, changed.text
        all_of_them = {"filter": {"field": "n", "lt": 3}, "metadata": {"low": True}}
        update = await client.post(f"{path}/update", json=all_of_them)
        assert update.status_code == 202, update.text
    finally:
        held.gate.set()
    await until(client, "kept")
    async with asyncio.timeout(30):
        while True:
            job = (await client.get(f"/jobs/{update.json()['job']['id']}")).json()
            if job["state"] == "succeeded":
                break
            await asyncio.sleep(0.02)
    after = (await client.get(f"{path}/long?with_vector=true")).json()
    assert after["metadata"] == {"n": 7}
    assert after["image_urls"] == before["image_urls"]
    for part, earlier in zip(after["parts"], before["parts"], strict=True):
        np.testing.assert_allclose(part.pop("vector"), -np.asarray(earlier.pop("vector")), atol=1e-6)
        assert part == earlier
    low = {"filter": {"field": "low", "equals": True}}
    assert (await client.post("/collections/c/count", json=low)).json() == {"count": 3}


async def test_other_collections_stay_with_their_model(start: Start) -> None:
    client = await start()
    await client.put("/collections/stays")
    await client.post("/collections/stays/documents", params={"wait": True}, json=DOCUMENTS[:3])
    await client.post("/collections/c/reindex")
    await until(client, "kept")
    models = {one["name"]: one["model"] for one in (await client.get("/collections")).json()["collections"]}
    assert models == {"c": "other", "stays": "fake"}
    body = {"collection": "stays", "query": {"text": "text 1"}}
    assert (await client.post("/search", json=body)).json()["hits"][0]["id"] == "d1"


async def test_cancel_and_finish(start: Start) -> None:
    client = await start()
    assert (await client.get("/collections/c/reindex")).status_code == 404
    await client.post("/collections/c/reindex")
    finished = await client.post("/collections/c/reindex/finish")
    assert finished.status_code in (202, 409)  # it may have been quick
    await until(client, "kept", "dropping", "gone")
    too_late = await client.post("/collections/c/reindex/cancel")
    assert too_late.status_code in (404, 409), too_late.text


async def test_every_order_answers_as_its_model_says(start: Start, runtime: Any) -> None:
    """The client checks the answers."""
    held = other(runtime)
    client = await start(held)
    held.gate.clear()
    try:
        await client.post("/collections/c/reindex")
        assert (await client.post("/collections/c/reindex/cancel")).status_code == 202
    finally:
        held.gate.set()
    await until(client, "gone")
    await client.post("/collections/c/reindex")
    await until(client, "kept")
    assert (await client.post("/collections/c/reindex/finish")).status_code == 202


async def test_what_is_no_order(start: Start) -> None:
    client = await start()
    for body in ({"model": ""}, {"max_failures": -1}, {"encoder_url": "http://stranger"}, {"model": 1}):
        assert (await client.post("/collections/c/reindex", json=body)).status_code == 422
    answer = await client.post("/collections/c/reindex", json={"model": "third"})
    assert answer.status_code == 409
    assert "--model NAME=SOURCE" in answer.json()["detail"]
    assert (await client.post("/collections/none/reindex")).status_code == 404


async def test_a_dropped_collection_takes_its_other_generation_along(start: Start, tmp_path: Path) -> None:
    client = await start()
    await client.post("/collections/c/reindex")
    await until(client, "kept")
    assert (await client.delete("/collections/c")).status_code == 204
    assert [each.name for each in (tmp_path / "index").iterdir() if not each.name.startswith(".")] == []
