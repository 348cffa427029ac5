"""The models of this process: which there are, which of them are loaded, and why one is not.

The first one that can be loaded is loaded before the process starts. The others are loaded beside its work, so that the
start takes no longer with several; a call of a model that is being loaded waits for it. A model that failed for a
reason that can pass, such as a hub that does not answer, is tried again, after longer and longer pauses.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from indexer.backoff import Backoff
from indexer.encoding.encoder import Lane
from indexer.encoding.registry import ModelState, ServedModel
from indexer.errors import ModelUnavailable
from model.cpu.priority import yield_to_others
from model.errors import InvalidInput, RetrievalError
from model.passages import Cut, Passages
from model.types import Input, ModelInfo, Role
from service.encoder.batcher import Batcher
from service.encoder.budget import Budget
from service.encoder.lanes import Result
from service.encoder.loaded import LoadedModel, Runtime
from service.encoder.sources import ModelSource

log = structlog.get_logger(__name__)


# Loads a model, and says what a batch of it may cost.
Loader = Callable[[ModelSource], tuple[Runtime, Budget]]


# Of loading a model again. A hub that is back is noticed within five minutes; a download of gigabytes that breaks off
# each time is not begun more often.
LOADING_BACKOFF = Backoff(first_s=10.0, longest_s=300.0)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a model could not be loaded, and whether the reason can pass."""

    reason: str
    passing: bool


@dataclass(slots=True)
class _Place:
    """A model of the list: loaded, failed with the reason, or neither yet."""

    name: str
    source: ModelSource
    model: LoadedModel | None = None
    failure: str | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    passing: bool = False  # whether the failure can pass, so that the model is tried again
    tries: int = 0
    # When it is loaded, by the monotonic clock; None once it is loaded, or failed for good.
    due: float | None = 0.0

    @property
    def served(self) -> ServedModel:
        if self.model is not None:
            state = ModelState.FAILED if self.failure else ModelState.READY
            return ServedModel(self.name, state, self.model.runtime.info, self.failure)
        state = ModelState.FAILED if self.failure else ModelState.LOADING
        return ServedModel(self.name, state, None, self.explained)

    @property
    def explained(self) -> str | None:
        """The reason of its failure, and when it is tried again."""
        if self.failure is None or not self.passing:
            return self.failure
        next_s = max(0, math.ceil((self.due or 0) - time.monotonic()))
        return f"{self.failure.removesuffix('.')}. Try {self.tries} failed, the next one follows in {next_s} s"


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
            place = _Place(name, ModelSource(name, name), model, due=None)
            place.settled.set()
            places.append(place)
        return cls(batcher, places)

    @classmethod
    def load(
        cls,
        sources: Sequence[ModelSource],
        loader: Loader,
        serve: Callable[[Runtime, Budget], Batcher],
        *,
        all_before_start: bool = False,
    ) -> LocalModels:
        """Load models in their order until one can be loaded, and make its batcher by `serve`.

        Raises the error of a model that is alone, or `InvalidInput` with all errors.
        """
        places = [_Place(source.name, source) for source in sources]
        batcher: Batcher | None = None
        for place in places:
            outcome = _loaded(place, loader, raises=len(places) == 1)
            if isinstance(outcome, _Failure):
                _fail(place, outcome)
                continue
            if batcher is None:
                batcher = serve(*outcome)
                place.model = batcher.first
            else:
                place.model = batcher.add(*outcome)
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
        if any(place.due is not None for place in self._places.values()):
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
        """Load what is due, in the order of the list, until nothing is."""
        assert self._loader is not None
        # The threads of OpenVINO that a model starts inherit it.
        yield_to_others()
        while due := [
            (place.due, number, place) for number, place in enumerate(self._places.values()) if place.due is not None
        ]:
            due_at, _, place = min(due)
            if self._stopping.wait(max(0.0, due_at - time.monotonic())):
                return
            outcome = _loaded(place, self._loader)
            try:
                loop.call_soon_threadsafe(self._settle, place, outcome)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _settle(self, place: _Place, outcome: tuple[Runtime, Budget] | _Failure) -> None:
        if isinstance(outcome, _Failure):
            _fail(place, outcome)
        elif not self._stopping.is_set():
            place.model, place.failure = self.batcher.add(*outcome), None
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
            advice = "" if place.passing else ". Mend it and restart the service"
            raise ModelUnavailable(
                f"model {name} could not be loaded: {place.explained}{advice}", field="model", value=name
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

    async def passages(self, texts: Sequence[str], cut: Cut) -> list[Passages]:
        return await self.host.batcher.passages(texts, cut, await self.host.loaded(self.name))


def _loaded(place: _Place, loader: Loader, *, raises: bool = False) -> tuple[Runtime, Budget] | _Failure:
    """Load a model, and note when it is due again if that failed for a reason that can pass. `raises` an error that is
    one of ours instead."""
    place.tries += 1
    try:
        loaded = loader(place.source)
    except RetrievalError as error:
        if raises:
            raise
        failure = _Failure(error.detail, error.retryable)
    except Exception as error:
        if raises:
            raise
        log.exception("model failed to load", model=place.name)
        failure = _Failure(f"{type(error).__name__}: {error}"[:500], isinstance(error, (OSError, MemoryError)))
    else:
        place.due = None
        return loaded
    pause_s = LOADING_BACKOFF.delay_s(place.tries - 1, random.Random())
    place.due = time.monotonic() + pause_s if failure.passing else None
    return failure


def _fail(place: _Place, failure: _Failure) -> None:
    place.failure, place.passing = failure.reason, failure.passing
    log.error("model failed to load", model=place.name, source=place.source.source, reason=place.explained)
    place.settled.set()
