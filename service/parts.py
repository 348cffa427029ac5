"""The ready objects a process is made of. `service.assembly` builds them, tests pass fakes, routes take them as dependencies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request

from indexer.blobs import Blobs
from indexer.catalog import Catalog
from indexer.intake import Intake
from indexer.ledger import Ledger
from indexer.store import Store
from indexer.worker import Worker
from service.encoder.batcher import Batcher
from service.inputs import ImageFetcher
from service.settings import Settings
from service.telemetry import Metrics

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    metrics: Metrics
    encoder: Batcher
    store: Store
    ledger: Ledger
    blobs: Blobs
    fetcher: ImageFetcher
    catalog: Catalog
    intake: Intake
    worker: Worker
    api_keys: Sequence[str] = ()
    draining: asyncio.Event = field(default_factory=asyncio.Event)  # this process is on its way out

    async def in_ledger(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call of the ledger, off the event loop."""
        return await self.ledger.call(call, *args, **kwargs)


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(parts_of)]
