"""The models by themselves: `ret2 serve --role encoder`. Embeds what it is sent; fetches nothing, stores nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

from indexer.encoding.registry import Encoders
from model.errors import DependencyUnavailable
from service.encoder import compatible, routes
from service.encoder.hosts import model_states
from service.encoder.models import LocalModels
from service.http.application import application
from service.http.health import Health
from service.keys import KeyFile
from service.observability.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class EncoderParts:
    """The ready objects of an encoder process."""

    settings: Settings
    metrics: Metrics
    models: LocalModels
    api_keys: KeyFile | None = None
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def encoders(self) -> Encoders:
        return Encoders((self.models,))

    @property
    def health(self) -> Health:
        return Health(
            alive={"encoder": lambda: self.models.alive},
            checks={"encoder": lambda: self.models.check(self.settings.ready_max_age_s), "models": self._all_loaded},
            models=lambda: model_states(self.encoders),
            draining=self.draining,
        )

    @property
    def qdrant_versions(self) -> list[str]:
        return []

    async def refresh_metrics(self) -> None:
        self.metrics.see_models(await self.models.models())

    async def _all_loaded(self) -> None:
        """Raise while a model is being loaded: until then another process, which has it, should be called."""
        if loading := self.models.loading:
            raise DependencyUnavailable(f"being loaded: {', '.join(loading)}")


def create_encoder_app(parts: EncoderParts) -> FastAPI:
    app = application(parts, parts.api_keys, [routes.packed_router, routes.router, compatible.router], _lifespan)
    settings = parts.settings
    app.state.parts = parts
    app.state.encoding = routes.Encoding(
        parts.encoders,
        None,
        settings.limits,
        settings.http.max_inputs_per_call,
        settings.http.max_embeddings_per_call,
        settings.request_timeout_s,
    )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: EncoderParts = app.state.parts
    parts.models.start()
    yield
    parts.draining.set()
    await parts.models.stop(parts.settings.grace_s / 2)
