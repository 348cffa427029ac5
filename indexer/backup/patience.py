"""Calls that wait for a store that does not answer: backup and restore take hours, and a server restarts in between."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from indexer.backoff import Backoff
from indexer.domain.points import Page, Point
from indexer.filters import Filter
from indexer.store.base import Points
from model.errors import DependencyUnavailable, Overloaded

Result = TypeVar("Result")

# From the first failure of a call to the last try: longer than a server takes to load its collections again.
PATIENCE_S = 600.0
_BACKOFF = Backoff(first_s=0.5, longest_s=10.0)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a failing call is repeated. `report` is called once for each pause."""

    report: Callable[[str], None] = lambda _: None
    patience_s: float = PATIENCE_S
    backoff: Backoff = _BACKOFF
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.monotonic

    async def call(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat a call until it succeeds, fails for good, or the patience ends. The call has to bear repetition."""
        deadline, tries = self.clock() + self.patience_s, 0
        while True:
            try:
                return await ask()
            except (DependencyUnavailable, Overloaded) as error:
                delay_s = self.backoff.delay_after_s(error, tries, self.rng)
                if self.clock() + delay_s > deadline:
                    raise
                if tries == 0:
                    self.report(f"waiting for the store: {error.detail}")
                tries += 1
                await asyncio.sleep(delay_s)


@dataclass(frozen=True, slots=True)
class PatientPoints:
    """What backup and restore need of `Points`, with patience."""

    points: Points
    patience: Patience

    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        return await self.patience.call(lambda: self.points.page(after, limit, condition))

    async def fetch(self, document_ids: Sequence[str], *, with_latents: bool = False) -> list[Point | None]:
        return await self.patience.call(lambda: self.points.fetch(document_ids, with_latents=with_latents))

    async def upsert(self, points: Sequence[Point]) -> None:
        await self.patience.call(lambda: self.points.upsert(points))
