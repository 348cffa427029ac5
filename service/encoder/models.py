"""The models of this process: which there are, which of them are loaded, and why one is not.

The first one that can be loaded is loaded before the process starts. The others are loaded beside its work, so that the
start takes no longer with several; a call of a model that is being loaded waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from indexer.encoding.encoder import Lane
from indexer.encoding.registry import ModelState, ServedModel
from indexer.errors import ModelUnavailable
from model.errors import InvalidInput, RetrievalError
from model.types import Input, ModelInfo, Role
from service.encoder.batcher import Batcher
from service.encoder.lanes import Result
from service.encoder.loaded import LoadedModel, Runtime
from service.encoder.sources import ModelSource

log = structlog.get_logger(__name__)


# Loads a model, and says what a batch of it may cost.
Loader = Callable[[ModelSource], tuple[Runtime, int]]


@dataclass(slots=True)
class _Place:
    """A model of the list: loaded, failed with the reason, or neither yet."""

    name: str
    source: ModelSource
    model: LoadedModel | None = None
    failure: str | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def served(self) -> ServedModel:
        if self.model is not None:
            state = ModelState.FAILED if self.failure else ModelState.READY
            return ServedModel(self.name, state, self.model.runtime.info, self.failure)
        state = ModelState.FAILED if self.failure else ModelState.LOADING
        return ServedModel(self.name, state, None, self.failure)


class LocalModels:
    """A `ModelHost`: several models on the device of this process. It belongs to the event loop of `start`."""

    def __init__(self, batcher: Batcher, places: Sequence[_Place], loader: Loader | None = None) -> None:
        self.batcher = batcher
        self._places = {place.name: place for place in places}
        self._loader = loader
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @classmethod
    def of(cls, batcher: Batcher, *more_models: LoadedModel) -> LocalModels:
        """Return the models of a batcher, each under its own name."""
        places = []
        for model in (batcher.first, *more_models):
            name = model.runtime.info.name
            place = _Place(name, ModelSource(name, name), model)
            place.settled.set()
            places.append(place)
        return cls(batcher, places)

    @classmethod
    def load(
        cls,
        sources: Sequence[ModelSource],
        loader: Loader,
        serve: Callable[[Runtime, int], Batcher],
        *,
        all_before_start: bool = False,
    ) -> LocalModels:
        """Load models in their order until one can be loaded, and make its batcher by `serve`.

        Raises the error of a model that is alone, or `InvalidInput` with all errors.
        """
        places = [_Place(source.name, source) for source in sources]
        batcher: Batcher | None = None
        for place in places:
            try:
                runtime, max_batch_cost = loader(place.source)
            except RetrievalError as error:
                if len(places) == 1:
                    raise
                _fail(place, error.detail)
                continue
            if batcher is None:
                batcher = serve(runtime, max_batch_cost)
                place.model = batcher.first
            else:
                place.model = batcher.add(runtime, max_batch_cost)
            place.settled.set()
            if not all_before_start:
                break
        if batcher is None:
            reasons = "; ".join(f"{place.name}: {place.failure}" for place in places)
            raise InvalidInput(f"none of {len(places)} models can be loaded: {reasons}", field="models")
        return cls(batcher, places, loader)

    # --- start and stop

    def start(self) -> None:
        self.batcher.start()
        if any(not place.settled.is_set() for place in self._places.values()):
            # A thread that ends: OpenMP keeps helpers for every thread that computes.
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._load_remaining, args=(loop,), name="load-models", daemon=True)
            self._thread.start()

    async def stop(self, grace_s: float = 10.0) -> None:
        self._stopping.set()
        await self.batcher.stop(grace_s)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, grace_s)
        for place in self._places.values():
            if not place.settled.is_set():
                place.failure = "this process stopped before it was loaded"
                place.settled.set()

    def _load_remaining(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._loader is not None
        for place in self._places.values():
            if place.settled.is_set() or self._stopping.is_set():
                continue
            outcome: tuple[Runtime, int] | str = "its loading was cut short"
            try:
                outcome = self._loader(place.source)
            except RetrievalError as error:
                outcome = error.detail
            except Exception as error:
                log.exception("model failed to load", model=place.name)
                outcome = f"{type(error).__name__}: {error}"[:500]
            try:
                loop.call_soon_threadsafe(self._settle, place, outcome)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _settle(self, place: _Place, outcome: tuple[Runtime, int] | str) -> None:
        if place.settled.is_set():
            return
        if isinstance(outcome, str):
            _fail(place, outcome)
        else:
            place.model = self.batcher.add(*outcome)
            place.settled.set()

    # --- health

    @property
    def alive(self) -> bool:
        return self.batcher.alive

    @property
    def loading(self) -> list[str]:
        return [place.name for place in self._places.values() if not place.settled.is_set()]

    async def check(self, max_age_s: float) -> None:
        """Try each loaded model whose last good forward is older, and keep what is wrong with it. Raises the reason if
        none works.
        """
        loaded = [place for place in self._places.values() if place.model is not None]
        errors = await asyncio.gather(*(self._check(place, max_age_s) for place in loaded))
        if all(errors):
            raise next(error for error in errors if error)

    async def _check(self, place: _Place, max_age_s: float) -> RetrievalError | None:
        try:
            await self.batcher.check(max_age_s, place.model)
        except RetrievalError as error:
            if place.failure is None:
                log.warning("model does not work", model=place.name, reason=error.detail)
            place.failure = error.detail
            return error
        place.failure = None
        return None

    # --- the models

    async def models(self) -> list[ServedModel]:
        return [place.served for place in self._places.values()]

    def encoder(self, name: str) -> LocalEncoder:
        return LocalEncoder(self, name)

    async def loaded(self, name: str) -> LoadedModel:
        """Wait for a model that is being loaded. Raises `ModelUnavailable` for one that cannot be."""
        place = self._places[name]
        await place.settled.wait()
        if place.model is None:
            raise ModelUnavailable(
                f"model {name} could not be loaded: {place.failure}. Mend it and restart the service",
                field="model",
                value=name,
            )
        return place.model


@dataclass(frozen=True, slots=True)
class LocalEncoder:
    """One of the models of this process, as an `Encoder`."""

    host: LocalModels
    name: str

    async def info(self) -> ModelInfo:
        return (await self.host.loaded(self.name)).runtime.info

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Result]:
        model = await self.host.loaded(self.name)
        return await self.host.batcher.encode(inputs, role=role, lane=lane, model=model)


def _fail(place: _Place, reason: str) -> None:
    log.error("model failed to load", model=place.name, source=place.source.source, reason=reason)
    place.failure = reason
    place.settled.set()
