"""Several models in one service, over HTTP: which one embeds what, and what is said of one that cannot be used."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fake_runtime import FakeRuntime
from prometheus_client import CollectorRegistry

from indexer.encoding.http_encoder import EncoderClientSettings, HttpEncoder
from model.errors import InvalidInput
from service.api.app import create_app
from service.encoder.app import EncoderParts, create_encoder_app
from service.encoder.batcher import Batcher
from service.encoder.budget import Budget
from service.encoder.models import LocalModels
from service.encoder.sources import ModelSource
from service.observability.metrics import Metrics
from service.settings import QueueSettings, Settings
from service.wiring import build


def fake(name: str) -> FakeRuntime:
    """A model whose vectors point the other way for every other name, so that no two models agree."""
    runtime = FakeRuntime()
    runtime.info = replace(FakeRuntime.info, name=name, fingerprint=f"{name}-fingerprint")
    return runtime


def opposite(name: str) -> FakeRuntime:
    runtime = fake(name)
    launch = runtime.launch

    def turned(batch: Any) -> Any:
        wait = launch(batch)
        return lambda: replace(wait(), vectors=-wait().vectors)

    runtime.launch = turned  # type: ignore[method-assign]
    return runtime


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """A service over hosts of models, or over loaded models by themselves."""
    async with AsyncExitStack() as stack:

        async def started(*runtimes: FakeRuntime, hosts: tuple[Any, ...] = ()) -> httpx.AsyncClient:
            app = create_app(build(Settings(data_dir=tmp_path), *runtimes, hosts=hosts))
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))

        yield started


def loading(failing: str) -> LocalModels:
    """Models "first" and "second", of which one cannot be loaded."""

    def load(source: ModelSource) -> tuple[FakeRuntime, int]:
        if source.name == failing:
            raise InvalidInput(f"no folder '/models/{failing}'")
        return fake(source.name), 2_048

    def serve(runtime: Any, _cost: int) -> Batcher:
        return Batcher(runtime, QueueSettings(), Metrics(CollectorRegistry()))

    return LocalModels.load([ModelSource(name, f"/models/{name}") for name in ("first", "second")], load, serve)


async def fill(client: httpx.AsyncClient, name: str, model: str | None, *texts: str) -> dict[str, Any]:
    created = await client.put(f"/collections/{name}", json={"model": model} if model else {})
    assert created.status_code == 201, created.text
    documents = [{"id": text, "text": text} for text in texts]
    loaded = await client.post(f"/collections/{name}/documents", params={"wait": True}, json=documents)
    assert [result["status"] for result in loaded.json()["results"]] == ["indexed"] * len(texts), loaded.text
    collection: dict[str, Any] = created.json()
    return collection


async def search(client: httpx.AsyncClient, name: str, text: str) -> httpx.Response:
    return await client.post("/search", json={"collection": name, "query": {"text": text}})


async def test_a_collection_is_embedded_by_its_model(start: Any) -> None:
    client = await start(fake("first"), opposite("second"))
    assert (await fill(client, "a", None, "red", "blue"))["model"] == "first"
    second = await fill(client, "b", "second", "red", "blue")
    assert (second["model"], second["fingerprint"], second["compatible"]) == ("second", "second-fingerprint", True)
    for name in ("a", "b"):
        hits = (await search(client, name, "blue")).json()["hits"]
        assert hits[0]["id"] == "blue"
        assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    searches = [{"collection": name, "query": {"positive": ["red", {"text": "red"}]}} for name in ("a", "b")]
    batch = (await client.post("/search/batch", json={"searches": searches})).json()["results"]
    assert [answer["hits"][0]["id"] for answer in batch] == ["blue", "blue"]
    listed = {one["name"]: one["model"] for one in (await client.get("/collections")).json()["collections"]}
    assert listed == {"a": "first", "b": "second"}


async def test_calls_of_the_encoder_name_a_model(start: Any) -> None:
    client = await start(fake("first"), opposite("second"))
    vectors = {}
    for model in (None, "first", "second"):
        named = {"model": model} if model else {}
        answer = await client.post("/encode", json={"role": "query", "inputs": [{"text": "red"}], **named})
        assert answer.json()["model"] == (model or "first")
        vectors[model] = np.array(answer.json()["results"][0]["embedding"])
        as_openai = (await client.post("/v1/embeddings", json={"input": "red", **named})).json()
        assert as_openai["model"] == (model or "first")
        assert np.allclose(as_openai["data"][0]["embedding"], vectors[model])
    assert np.allclose(vectors[None], vectors["first"])
    assert np.allclose(vectors["second"], -vectors["first"])
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["first", "second"]
    described = (await client.get("/info")).json()["models"]
    assert [(model["name"], model["state"]) for model in described] == [("first", "ready"), ("second", "ready")]
    assert described[1]["modalities"] == ["text", "image"]
    assert {"dimensions", "max_text_tokens", "image_size_px"} <= described[1].keys()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/encode", {"role": "query", "inputs": [{"text": "red"}], "model": "third"}),
        ("POST", "/v1/embeddings", {"input": "red", "model": "third"}),
        ("GET", "/v1/models/third", None),
        ("PUT", "/collections/c", {"model": "third"}),
    ],
)
async def test_a_model_that_is_not_served(start: Any, method: str, path: str, body: Any) -> None:
    client = await start(fake("first"), fake("second"))
    answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert answer.json()["detail"] == "there is no model 'third', served are: first, second"


async def test_a_collection_keeps_its_model(start: Any) -> None:
    client = await start(fake("first"), opposite("second"))
    await fill(client, "c", "second", "red")
    assert (await client.put("/collections/c", json={"model": "second"})).status_code == 200
    assert (await client.put("/collections/c")).status_code == 200
    assert (await client.patch("/collections/c", json={"model": "second", "limit": 3})).json()["limit"] == 3
    for method in ("PUT", "PATCH"):
        refused = await client.request(method, "/collections/c", json={"model": "first"})
        assert refused.status_code == 409, refused.text
        assert "exists with model second" in refused.json()["detail"]
        assert "POST /collections/c/reindex" in refused.json()["detail"]


async def test_a_collection_whose_model_is_gone_is_named_and_the_others_work(start: Any) -> None:
    batcher = Batcher(fake("first"), QueueSettings(), Metrics(CollectorRegistry()))
    models = LocalModels.of(batcher, batcher.add(opposite("second"), Budget(2_048, fixed=True)))
    client = await start(hosts=(models,))
    await fill(client, "a", "first", "red")
    await fill(client, "b", "second", "red")
    # As after a restart without it.
    del models._places["second"]
    assert (await search(client, "a", "red")).status_code == 200
    for answer in (
        await search(client, "b", "red"),
        await client.post("/collections/b/documents", json=[{"text": "blue"}]),
    ):
        assert answer.status_code == 409, answer.text
        assert "collection 'b' was filled by model second (second-finge), which is not served any more" in answer.text
        assert "--model second=SOURCE" in answer.text
    assert (await client.get("/collections/b")).json()["compatible"] is False


async def test_a_model_that_cannot_be_loaded_is_said_and_the_other_one_serves(start: Any) -> None:
    client = await start(hosts=(loading("second"),))
    await fill(client, "a", "first", "red")
    assert (await search(client, "a", "red")).status_code == 200
    refused = await client.put("/collections/b", json={"model": "second"})
    assert refused.status_code == 503
    assert "model second could not be loaded: no folder '/models/second'" in refused.json()["detail"]
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert ready.json()["models"] == {"first": "ok", "second": "no folder '/models/second'"}
    described = (await client.get("/info")).json()["models"]
    assert [(model["name"], model["state"]) for model in described] == [("first", "ready"), ("second", "failed")]
    metrics = (await client.get("/metrics")).text
    assert 'ret2_model_info{dimensions="",fingerprint="",name="second",state="failed"} 1.0' in metrics


async def test_a_model_that_gives_no_usable_vectors_holds_up_its_own_collections_only(start: Any) -> None:
    poisoned = fake("second")
    client = await start(fake("first"), poisoned)
    await fill(client, "a", "first", "red")
    await fill(client, "b", "second", "red")
    poisoned.on_forward = lambda texts: np.full((len(texts), FakeRuntime.info.dimensions), np.nan, np.float32)
    assert (await search(client, "b", "red")).status_code == 500
    assert (await search(client, "a", "red")).status_code == 200
    assert (await client.get("/readyz")).json()["ready"] is True


class Encoder:
    """An encoder process with these models; `down` makes it unreachable."""

    def __init__(self, *runtimes: FakeRuntime) -> None:
        metrics = Metrics(CollectorRegistry())
        batcher = Batcher(runtimes[0], QueueSettings(), metrics)
        models = LocalModels.of(batcher, *(batcher.add(runtime, Budget(2_048, fixed=True)) for runtime in runtimes[1:]))
        self.app = create_encoder_app(EncoderParts(Settings(role="encoder"), metrics, models))
        self.down = False
        inner = httpx.ASGITransport(self.app)

        async def handle(request: httpx.Request) -> httpx.Response:
            if self.down:
                raise httpx.ConnectError("refused")
            return await inner.handle_async_request(request)

        self.client = HttpEncoder(
            EncoderClientSettings(f"http://{runtimes[0].info.name}", attempts=1, info_max_age_s=0.0),
            transport=httpx.MockTransport(handle),
        )


async def test_an_api_asks_each_encoder_which_models_it_has(start: Any) -> None:
    one, two = Encoder(fake("first")), Encoder(opposite("second"), fake("third"))
    async with AsyncExitStack() as stack:
        for encoder in (one, two):
            await stack.enter_async_context(encoder.app.router.lifespan_context(encoder.app))
        client = await start(hosts=(one.client, two.client))
        names = [model["name"] for model in (await client.get("/info")).json()["models"]]
        assert names == ["first", "second", "third"]
        assert (await fill(client, "a", None, "red"))["model"] == "first"
        await fill(client, "b", "second", "red")
        await fill(client, "c", "third", "red")

        two.down = True
        assert (await search(client, "a", "red")).status_code == 200
        for name in ("b", "c"):
            assert (await search(client, name, "red")).status_code == 503
        assert (await client.get("/readyz")).json()["ready"] is True
        assert "ConnectError" in (await client.get("/readyz")).json()["models"]["second"]
        assert (await client.get("/collections")).status_code == 200

        one.down, two.down = True, False
        assert (await search(client, "b", "red")).status_code == 200
        assert (await search(client, "a", "red")).status_code == 503
        one.down = two.down = True
        assert (await client.get("/readyz")).json()["ready"] is False


async def test_an_encoder_that_never_answered_leaves_the_models_of_the_others(start: Any) -> None:
    one, two = Encoder(fake("first")), Encoder(opposite("second"))
    one.down = True
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(two.app.router.lifespan_context(two.app))
        client = await start(hosts=(one.client, two.client))
        await fill(client, "b", "second", "red")
        assert (await search(client, "b", "red")).status_code == 200
        assert (await client.put("/collections/a", json={"model": "first"})).status_code == 503
        assert (await client.put("/collections/a")).status_code == 503, "the default is a model of the first encoder"
