"""Several models in one process: which are loaded when, what waits, and what is said of one that cannot be had."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_runtime import D, FakeRuntime
from prometheus_client import CollectorRegistry

from indexer.backoff import Backoff
from indexer.encoding.encoder import Lane
from indexer.encoding.registry import Encoders, ModelState
from indexer.errors import ModelUnavailable
from model.errors import DependencyUnavailable, EncodeFailed, InvalidInput, RetrievalError
from model.types import Embedding, Input, Role
from service.encoder.batcher import Batcher
from service.encoder.budget import Budget
from service.encoder.models import LocalModels
from service.encoder.sources import ModelSource
from service.observability.metrics import Metrics
from service.settings import QueueSettings

NAMES = ("first", "second", "third")


class Loads:
    """A loader whose models a test holds back or fails, by name."""

    def __init__(self) -> None:
        self.failing: dict[str, Exception] = {}
        self.held: dict[str, threading.Event] = {}
        self.loaded: list[str] = []

    def __call__(self, source: ModelSource) -> tuple[FakeRuntime, Budget]:
        if (gate := self.held.get(source.name)) is not None:
            assert gate.wait(10)
        if (error := self.failing.get(source.name)) is not None:
            raise error
        self.loaded.append(source.name)
        runtime = FakeRuntime()
        runtime.info = replace(FakeRuntime.info, name=source.name, fingerprint=f"{source.name}-fingerprint")
        return runtime, Budget(2_048, fixed=True)


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
async def start(loads: Loads) -> AsyncIterator[Callable[..., LocalModels]]:
    started: list[LocalModels] = []

    def begin(*names: str, **options: Any) -> LocalModels:
        metrics = Metrics(CollectorRegistry())
        sources = [ModelSource(name, f"/models/{name}") for name in names or NAMES]
        models = LocalModels.load(
            sources, loads, lambda runtime, _budget: Batcher(runtime, QueueSettings(), metrics), **options
        )
        models.start()
        started.append(models)
        return models

    yield begin
    for gate in loads.held.values():
        gate.set()
    for models in started:
        await models.stop(grace_s=5)


async def encode(models: LocalModels, name: str, text: str = "red") -> Embedding | RetrievalError:
    (result,) = await models.encoder(name).encode([Input(text)], role=Role.QUERY, lane=Lane.SEARCH)
    return result


async def states(models: LocalModels) -> dict[str, str]:
    return {model.name: model.state for model in await models.models()}


async def test_the_default_serves_while_the_others_are_loaded(start: Any, loads: Loads) -> None:
    loads.held["second"] = threading.Event()
    models = start()
    assert isinstance(await encode(models, "first"), Embedding)
    assert loads.loaded == ["first"]
    assert await states(models) == {"first": "ready", "second": "loading", "third": "loading"}
    assert models.loading == ["second", "third"]


async def test_a_call_of_a_model_that_is_being_loaded_waits_for_it(start: Any, loads: Loads) -> None:
    loads.held["second"] = threading.Event()
    models = start()
    call = asyncio.create_task(encode(models, "second"))
    assert isinstance(await encode(models, "first"), Embedding)
    assert not call.done()
    loads.held["second"].set()
    answer = await call
    assert isinstance(answer, Embedding)
    assert answer.fingerprint == "second-fingerprint"
    assert (await models.encoder("third").info()).name == "third"
    assert models.loading == []


@pytest.mark.parametrize("error", [InvalidInput("no folder '/models/second'"), KeyError("weight")])
async def test_a_model_that_cannot_be_loaded_leaves_the_others(start: Any, loads: Loads, error: Exception) -> None:
    loads.failing["second"] = error
    models = start()
    assert isinstance(await encode(models, "third"), Embedding)
    with pytest.raises(ModelUnavailable, match=r"model second could not be loaded: .*(no folder|KeyError)"):
        await encode(models, "second")
    assert await states(models) == {"first": "ready", "second": "failed", "third": "ready"}
    await models.check(30)
    assert models.alive


async def test_where_the_default_cannot_be_loaded_the_next_one_starts_the_process(start: Any, loads: Loads) -> None:
    """The default stays what it is: nobody gets vectors of another model than the one that was declared."""
    loads.failing["first"] = InvalidInput("2 weights do not fit")
    models = start()
    assert isinstance(await encode(models, "second"), Embedding)
    with pytest.raises(ModelUnavailable, match="model first could not be loaded: 2 weights do not fit"):
        await Encoders((models,)).find()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.encoder.models.LOADING_BACKOFF", Backoff(first_s=0.05, longest_s=0.05))


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize(
    "error", [DependencyUnavailable("the hub cannot be reached (no answer in time)"), OSError("Stale file handle")]
)
async def test_a_model_whose_failure_can_pass_is_tried_again(
    start: Any, loads: Loads, impatient: None, name: str, error: Exception
) -> None:
    """Also the default, which another model has replaced at the start."""
    loads.failing[name] = error
    models = start()
    with pytest.raises(ModelUnavailable, match=r"Try \d+ failed, the next one follows in \d+ s$"):
        await encode(models, name)
    (failed,) = [model for model in await models.models() if model.state is ModelState.FAILED]
    assert failed.name == name
    assert str(error).removesuffix(".") in (failed.detail or "")
    del loads.failing[name]
    async with asyncio.timeout(5):
        while (await states(models))[name] == "failed":  # noqa: ASYNC110  what is waited for is another thread's doing
            await asyncio.sleep(0.01)
    assert isinstance(await encode(models, name), Embedding)
    assert all(model.detail is None for model in await models.models())


async def test_a_model_that_has_to_be_mended_is_not_tried_again(start: Any, loads: Loads, impatient: None) -> None:
    loads.failing["second"] = InvalidInput("2 weights do not fit")
    models = start()
    await encode(models, "third")
    del loads.failing["second"]
    await asyncio.sleep(0.2)
    with pytest.raises(ModelUnavailable, match=r"2 weights do not fit. Mend it and restart the service$"):
        await encode(models, "second")


async def test_the_process_stops_between_two_tries(start: Any, loads: Loads) -> None:
    loads.failing["second"] = DependencyUnavailable("the hub cannot be reached")
    models = start()
    await encode(models, "third")
    async with asyncio.timeout(2):
        await models.stop(grace_s=10)


def test_the_only_model_ends_the_start_with_its_sentence(loads: Loads) -> None:
    loads.failing["only"] = InvalidInput("no folder 'x'")
    with pytest.raises(InvalidInput, match=r"^no folder 'x'$"):
        LocalModels.load([ModelSource("only", "x")], loads, lambda *_: pytest.fail("there is nothing to serve"))


def test_where_no_model_can_be_loaded_all_reasons_are_given(loads: Loads) -> None:
    loads.failing.update(a=InvalidInput("no folder 'a'"), b=InvalidInput("no folder 'b'"))
    sources = [ModelSource(name, name) for name in "ab"]
    with pytest.raises(InvalidInput, match="none of 2 models can be loaded: a: no folder 'a'; b: no folder 'b'"):
        LocalModels.load(sources, loads, lambda *_: pytest.fail("there is nothing to serve"))


async def test_all_before_the_start_where_loading_holds_up_the_device(start: Any, loads: Loads) -> None:
    models = start(all_before_start=True)
    assert loads.loaded == list(NAMES)
    assert set((await states(models)).values()) == {"ready"}


async def test_a_model_whose_forwards_fail_is_reported_and_holds_up_no_other(start: Any) -> None:
    models = start("first", "second")
    await models.encoder("second").info()
    poisoned: Any = (await models.loaded("second")).runtime
    poisoned.on_forward = lambda texts: np.full((len(texts), D), np.nan, np.float32)
    await models.check(0)
    first, second = await models.models()
    assert (first.state, second.state) == (ModelState.READY, ModelState.FAILED)
    assert "length nan" in (second.detail or "")
    poisoned.on_forward = lambda _texts: None
    await models.check(0)
    assert (await models.models())[1].state is ModelState.READY


async def test_it_is_unready_when_none_of_its_models_works(start: Any) -> None:
    models = start("first", "second")
    for name in ("first", "second"):
        runtime: Any = (await models.loaded(name)).runtime
        runtime.on_forward = lambda texts: np.full((len(texts), D), np.nan, np.float32)
    with pytest.raises(EncodeFailed):
        await models.check(0)


async def test_who_waits_for_a_model_is_answered_when_the_process_stops(start: Any, loads: Loads) -> None:
    loads.held["second"] = threading.Event()
    models = start("first", "second", "third")
    call = asyncio.create_task(encode(models, "third"))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(models.stop(grace_s=5))
    loads.held["second"].set()
    await stopping
    with pytest.raises(RetrievalError):
        await call
