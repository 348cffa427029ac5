"""The models that a process can reach, wherever they run. Each collection is served by the one that filled it.

A model has a name, given by who serves it, and a fingerprint, made of all that changes its embeddings. Callers name
models; collections are bound to fingerprints.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

from indexer.encoding.encoder import Encoder
from model.errors import DependencyUnavailable, ModelNotFound, RetrievalError, TimedOut
from model.types import ModelInfo

# How long a list of models waits for a host; what it has not said by then is not in the list.
_LISTING_S = 2.0


class ModelState(StrEnum):
    """The state of a model in the process that serves it."""

    LOADING = "loading"
    READY = "ready"
    # It could not be loaded, or no forward of it works.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its host reports it. `info` is None until it is loaded; `detail` says why it does not serve."""

    name: str
    state: ModelState
    info: ModelInfo | None = None
    detail: str | None = None


class ModelHost(Protocol):
    """A process that serves models: this one, or one behind a URL."""

    async def models(self) -> Sequence[ServedModel]:
        """Return its models, its default first. Raises `DependencyUnavailable` when it does not answer."""
        ...

    def encoder(self, name: str) -> Encoder:
        """Return the encoder of one of its models. It waits for a model that is being loaded."""
        ...


@dataclass(frozen=True, slots=True)
class Encoders:
    """The models of all hosts. The first model of the first host is the default; the first host with a name has it.

    A host that does not answer holds up its own models only.
    """

    hosts: tuple[ModelHost, ...]

    @classmethod
    def of(cls, *encoders: Encoder | Encoders) -> Encoders:
        """Return encoders that are there already, each of one model, as hosts; `Encoders` stay as they are."""
        if len(encoders) == 1 and isinstance(encoders[0], Encoders):
            return encoders[0]
        return cls(tuple(OneModel(cast("Encoder", encoder)) for encoder in encoders))

    @property
    def alone(self) -> bool:
        """Whether a single host has all models: when it is unavailable, everything waits."""
        return len(self.hosts) == 1

    async def served(self) -> list[ServedModel]:
        """Return the models of the hosts that answer, the default first. Raises `DependencyUnavailable` if none
        does.
        """
        models: dict[str, ServedModel] = {}
        answers = await asyncio.gather(*(_within(host.models(), _LISTING_S) for host in self.hosts))
        for answer in answers:
            for model in () if isinstance(answer, RetrievalError) else answer:
                models.setdefault(model.name, model)
        for answer in answers:
            if isinstance(answer, RetrievalError) and not models:
                raise answer
        return list(models.values())

    async def find(self, name: str | None = None) -> tuple[Encoder, ModelInfo]:
        """Return the model of this name, by default the first of all.

        Raises `ModelNotFound`, or `DependencyUnavailable` for a model that failed or whose host may be unavailable.
        """
        away: RetrievalError | None = None
        names: list[str] = []
        for host in self.hosts:
            try:
                models = await host.models()
            except DependencyUnavailable as error:
                if name is None:
                    raise
                away = error
                continue
            for model in models[:1] if name is None else models:
                if name in (None, model.name):
                    encoder = host.encoder(model.name)
                    return encoder, await encoder.info()
            names += [model.name for model in models]
        if away is not None:
            raise away
        raise ModelNotFound(
            f"there is no model {name!r:.100}, served are: {', '.join(dict.fromkeys(names))}",
            field="model",
            value=name,
        )

    async def by_fingerprint(self, fingerprint: str, name: str | None = None) -> tuple[Encoder, ModelInfo] | None:
        """Return the model with this fingerprint, None when no model has it.

        Raises `DependencyUnavailable` when a model that may have it is unavailable: one on a host that does not answer,
        or one of this `name` that was not loaded.
        """
        away: RetrievalError | None = None
        failed: tuple[Encoder, ModelInfo] | None = None
        unknown: list[Encoder] = []
        async with aclosing(self._answers()) as answers:
            async for host, answer in answers:
                if isinstance(answer, RetrievalError):
                    away = answer
                    continue
                for model in answer:
                    if model.info is None:
                        if model.state is ModelState.LOADING or model.name == name:
                            unknown.append(host.encoder(model.name))
                    elif model.info.fingerprint == fingerprint:
                        if model.state is ModelState.READY:
                            return host.encoder(model.name), model.info
                        failed = host.encoder(model.name), model.info
        if failed is not None:
            return failed
        for encoder in unknown:
            try:
                info = await encoder.info()
            except DependencyUnavailable as error:
                away = away or error
                continue
            if info.fingerprint == fingerprint:
                return encoder, info
        if away is not None:
            raise away
        return None

    async def _answers(self) -> AsyncGenerator[tuple[ModelHost, Sequence[ServedModel] | RetrievalError]]:
        """Yield the models of each host, or its error, as they come: nobody waits for a host that is unavailable."""

        async def ask(host: ModelHost) -> tuple[ModelHost, Sequence[ServedModel] | RetrievalError]:
            try:
                return host, await host.models()
            except DependencyUnavailable as error:
                return host, error

        if self.alone:
            yield await ask(self.hosts[0])
            return
        asking = [asyncio.create_task(ask(host)) for host in self.hosts]
        try:
            for answer in asyncio.as_completed(asking):
                yield await answer
        finally:
            for task in asking:
                task.cancel()


@dataclass(frozen=True, slots=True)
class OneModel:
    """An encoder as the host of its only model."""

    only: Encoder

    async def models(self) -> Sequence[ServedModel]:
        info = await self.only.info()
        return [ServedModel(info.name, ModelState.READY, info)]

    def encoder(self, name: str) -> Encoder:
        """Return the only encoder, whatever the name: its model may have changed."""
        return self.only


async def _within(models: Awaitable[Sequence[ServedModel]], timeout_s: float) -> Sequence[ServedModel] | RetrievalError:
    try:
        return await asyncio.wait_for(models, timeout_s)
    except TimeoutError:
        return TimedOut(f"an encoder did not say within {timeout_s:g} s which models it has")
    except DependencyUnavailable as error:
        return error
