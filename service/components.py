"""The ready objects a process is made of. `service.server` builds them, tests pass fakes, routes take them as
dependencies."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request

from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Thumbnails
from indexer.catalog import Catalog
from indexer.encoding.registry import Encoders
from indexer.imports.planner import Imports
from indexer.intake import Intake
from indexer.ledger.ledger import Ledger
from indexer.loops import WakeUps
from indexer.reindexes import Reindexes
from indexer.store.base import Store
from indexer.worker.progress import Progress
from indexer.worker.reindexer import Reindexer
from indexer.worker.worker import Worker
from model.errors import DependencyUnavailable, RetrievalError
from service.encoder.hosts import Host, check_any, model_states
from service.http.health import Health
from service.inputs.inputs import ImageFetcher
from service.keys import KeyFile
from service.observability.metrics import Metrics
from service.search.room import HitRoom
from service.settings import ServerRole, Settings

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    metrics: Metrics
    hosts: tuple[Host, ...]
    encoders: Encoders
    store: Store
    ledger: Ledger
    blobs: Blobs
    thumbnails: Thumbnails
    fetcher: ImageFetcher
    catalog: Catalog
    intake: Intake
    worker: Worker
    wakeups: WakeUps
    imports: Imports
    progress: Progress
    reindexes: Reindexes
    reindexer: Reindexer
    hit_room: HitRoom
    api_keys: KeyFile | None = None
    draining: asyncio.Event = field(default_factory=asyncio.Event)  # this process is on its way out

    @property
    def indexes(self) -> bool:
        """Whether worker and reindexer run here. Where they do not, they were never started."""
        return self.settings.role is not ServerRole.API

    @property
    def health(self) -> Health:
        """One model, or one encoder of several, may be unavailable without this process being unready: that holds up
        its own collections."""
        max_age_s = self.settings.ready_max_age_s
        working = {"worker": lambda: self.worker.alive and self.reindexer.alive} if self.indexes else {}
        return Health(
            alive={
                "encoder": lambda: all(host.alive for host in self.hosts),
                "fetcher": lambda: self.fetcher.alive,
                "store": lambda: self.store.alive,
                **working,
            },
            checks={
                "encoder": lambda: check_any(self.hosts, max_age_s),
                "store": self.store.ping,
                "ledger": self.ledger.housekeeping.check,
                **dict.fromkeys(working, self._worker_runs),
            },
            models=lambda: model_states(self.encoders),
            draining=self.draining,
        )

    @property
    def qdrant_versions(self) -> list[str]:
        return sorted({version for version in self.store.versions.values() if version})

    async def refresh_metrics(self) -> None:
        """Update the metrics of ledger and store. What does not answer keeps its last values, because metrics are
        needed most when something is wrong."""
        with contextlib.suppress(RetrievalError):
            self.metrics.see_ledger(await self.ledger.jobs.overview())
        with contextlib.suppress(RetrievalError):
            self.metrics.see_models(await self.encoders.served())

    async def _worker_runs(self) -> None:
        if not self.worker.alive:
            raise DependencyUnavailable("the worker is not running")


async def parts_of(request: Request) -> Parts:  # async: FastAPI would take a plain one to a thread
    parts: Parts = request.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(parts_of)]
