"""The encoder by itself: `ret2 serve --role encoder`. Embeds what it is sent; fetches nothing, stores nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

from service.encoder import routes
from service.encoder.batcher import Batcher
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
    encoder: Batcher
    api_keys: KeyFile | None = None
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def health(self) -> Health:
        return Health(
            alive={"encoder": lambda: self.encoder.alive},
            checks={"encoder": lambda: self.encoder.check(self.settings.ready_max_age_s)},
            draining=self.draining,
        )

    async def refresh_metrics(self) -> None:
        self.metrics.see_model(await self.encoder.info())


def create_encoder_app(parts: EncoderParts) -> FastAPI:
    app = application(parts, parts.api_keys, [routes.router], _lifespan)
    settings = parts.settings
    app.state.parts = parts
    app.state.encoding = routes.Encoding(
        parts.encoder, None, settings.limits, settings.http.max_inputs_per_call, settings.request_timeout_s
    )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: EncoderParts = app.state.parts
    parts.encoder.start()
    yield
    parts.draining.set()
    await parts.encoder.stop(parts.settings.grace_s / 2)
