"""The roles api and indexer on one PostgreSQL, as two processes would be: what one accepts the other indexes."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_store import FakeStore
from prometheus_client import CollectorRegistry

from indexer.encoding.http_encoder import HttpEncoder
from service import wiring
from service.api.app import create_app
from service.components import Parts
from service.encoder.app import EncoderParts, create_encoder_app
from service.encoder.batcher import Batcher
from service.encoder.models import LocalModels
from service.observability.metrics import Metrics
from service.settings import Settings

Start = Callable[..., Awaitable[tuple[Parts, httpx.AsyncClient]]]


@pytest.fixture
async def start(runtime: Any, postgres_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """A process of a role. All have one database, one folder of images, one encoder behind HTTP, and one store."""
    store, metrics = FakeStore(), Metrics(CollectorRegistry())
    batcher = Batcher(runtime, Settings().queue(2_048), metrics)
    encoder = create_encoder_app(EncoderParts(Settings(role="encoder"), metrics, LocalModels.of(batcher)))
    over = httpx.ASGITransport(encoder)
    shared = {"encoder_url": "http://encoder", "qdrant_url": "http://qdrant:6333", "database_url": postgres_url}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(encoder.router.lifespan_context(encoder))

        async def process(role: str, **settings: Any) -> tuple[Parts, httpx.AsyncClient]:
            described = Settings(role=role, blobs_url=str(tmp_path / "blobs"), **shared, **settings)
            remote = HttpEncoder(described.encoder_client("http://encoder"), transport=over)
            parts = wiring.build(described, hosts=[remote], store=store)
            app = create_app(parts)
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=30)
            return parts, await stack.enter_async_context(client)

        yield process


async def test_what_the_api_accepts_the_indexer_indexes(start: Start, make_image: Callable[..., bytes]) -> None:
    _, api = await start("api")
    await start("indexer")
    assert (await api.put("/collections/flags")).is_success
    documents = [{"id": "a", "text": "red"}, {"id": "b", "text": "blue"}, {"id": "c", "text": ""}]
    answer = await api.post("/collections/flags/documents", params={"wait": True}, json=documents)
    assert answer.status_code == 200, answer.text
    assert [one["status"] for one in answer.json()["results"]] == ["indexed", "indexed"]
    found = await api.post("/search", json={"collection": "flags", "query": {"text": "blue"}})
    assert found.json()["hits"][0]["id"] == "b"
    assert (await api.delete("/collections/flags/documents/b", params={"wait": True})).status_code == 200
    assert (await api.get("/collections/flags")).json()["documents"] == 1


async def test_long_texts_and_several_images_by_an_encoder_elsewhere(
    start: Start, make_image: Callable[..., bytes]
) -> None:
    _, api = await start("api")
    await start("indexer")
    await api.put("/collections/flags", json={"passages": {"tokens": 64}})
    pictures = [{"base64": base64.b64encode(make_image(colour)).decode()} for colour in ("red", "green")]
    text = "Nothing of note stands here. " * 20 + "The answer is quokka."
    documents = [{"id": "long", "text": text, "images": pictures}, {"id": "short", "text": "short"}]
    answer = await api.post("/collections/flags/documents", params={"wait": True}, json=documents)
    assert answer.json()["job"]["indexed"] == 2, answer.text
    found = await api.post("/search", json={"collection": "flags", "query": {"text": "The answer is quokka."}})
    first = found.json()["hits"][0]
    assert (first["id"], text[first["part"]["start"] : first["part"]["end"]]) == ("long", first["part"]["text"])
    assert "quokka" in first["part"]["text"]
    document = (await api.get("/collections/flags/documents/long?with_vector=true")).json()
    assert len(document["image_urls"]) == 2
    assert len(document["parts"]) > 8
    cut = await api.post("/passages", json={"texts": [text], "tokens": 64})
    assert len(cut.json()["results"][0]["passages"]) == len(document["parts"]) - 1, "and one of the further image"


async def test_without_an_indexer_work_waits_and_the_api_is_ready(start: Start) -> None:
    parts, api = await start("api")
    await api.put("/collections/flags")
    answer = await api.post("/collections/flags/documents", json=[{"id": "a", "text": "red"}])
    assert answer.json()["job"]["state"] == "queued"
    assert (await api.get("/readyz")).json()["ready"] is True
    assert "ret2_pending_documents 1.0" in (await api.get("/metrics")).text
    assert not parts.worker.alive
    assert parts.health.dead() == []
    _, indexer = await start("indexer")
    followed = await api.get(f"/jobs/{answer.json()['job']['id']}/events")
    assert '"state":"succeeded"' in followed.text
    assert "ret2_pending_documents 0.0" in (await indexer.get("/metrics")).text


async def test_an_indexer_has_the_probes_and_nothing_else(start: Start) -> None:
    parts, indexer = await start("indexer", index_concurrency=3)
    assert parts.settings.indexer.concurrency == 3
    assert (await indexer.get("/livez")).json() == {
        "alive": True,
        "parts": {"encoder": True, "fetcher": True, "store": True, "worker": True},
    }
    assert set((await indexer.get("/readyz")).json()["checks"]) == {"encoder", "store", "ledger", "worker", "draining"}
    for method, path in (("POST", "/search"), ("GET", "/collections"), ("GET", "/jobs"), ("POST", "/encode")):
        assert (await indexer.request(method, path)).status_code == 404
    await parts.worker.stop()
    assert (await indexer.get("/readyz")).status_code == 503


async def test_an_api_says_what_it_has(start: Start) -> None:
    _, api = await start("api")
    assert (await api.get("/livez")).json() == {
        "alive": True,
        "parts": {"encoder": True, "fetcher": True, "store": True},
    }
    assert set((await api.get("/readyz")).json()["checks"]) == {"encoder", "store", "ledger", "draining"}


async def test_two_indexers_share_the_work(start: Start) -> None:
    _, api = await start("api")
    for _ in range(2):
        await start("indexer", index_batch_documents=4)
    await api.put("/collections/flags")
    documents = [{"id": str(number), "text": f"red {number}"} for number in range(100)]
    answer = await api.post("/collections/flags/documents", params={"wait": True}, json=documents)
    assert answer.status_code == 200
    assert answer.json()["job"]["indexed"] == 100
    assert (await api.get("/collections/flags")).json()["documents"] == 100
