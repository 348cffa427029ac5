"""Fetching from hosts that may not answer: a circuit breaker for each host, and places of their own for batches that
fetch.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from indexer.backoff import Backoff
from indexer.settings import IndexerSettings
from indexer.worker.pipeline import ImageFetcher
from model.errors import DependencyUnavailable

# Failures in a row after which a host is not asked for a while: fewer happen by chance.
FAILURES = 3
# Pauses in terms of the back-off's bounds: 5 s at first and 5 minutes at most by default.
FIRST_PAUSE, LONGEST_PAUSE = 10, 5
MAX_HOSTS = 10_000


@dataclass(slots=True)
class _Host:
    failures: int = 0
    closed_until: float = 0.0


class HostBreaker:
    """An image fetcher that stops asking a host which keeps failing, so that a thousand of its URLs cost no thousand
    time-outs.

    Remembers the `MAX_HOSTS` hosts that failed last. When the pause of a host is over, one request tries whether it
    answers.
    """

    def __init__(
        self,
        fetcher: ImageFetcher,
        settings: IndexerSettings,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._fetcher, self._clock, self._rng = fetcher, clock, rng or random.Random()
        self._backoff = Backoff(FIRST_PAUSE * settings.retry_base_s, LONGEST_PAUSE * settings.retry_max_s)
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    async def fetch(self, url: str) -> bytes:
        """Return the bytes behind `url`. Raises `DependencyUnavailable` at once while its host is not asked."""
        name = _host_of(url)
        host = self._hosts.get(name)
        if host is not None and host.failures >= FAILURES:
            pause_s = host.closed_until - self._clock()
            if pause_s > 0:
                raise DependencyUnavailable(
                    f"{name} failed {host.failures} times in a row; it is asked again in {pause_s:.0f} s", value=name
                )
            host.closed_until = self._clock() + self._backoff.first_s  # this request is the one that tries
        try:
            data = await self._fetcher.fetch(url)
        except DependencyUnavailable:
            self._count_failure(name)
            raise
        self._hosts.pop(name, None)
        return data

    def _count_failure(self, name: str) -> None:
        host = self._hosts.setdefault(name, _Host())
        self._hosts.move_to_end(name)
        host.failures += 1
        if host.failures >= FAILURES:
            host.closed_until = self._clock() + self._backoff.delay_s(host.failures - FAILURES, self._rng)
        if len(self._hosts) > MAX_HOSTS:
            self._hosts.popitem(last=False)


def _host_of(url: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


@dataclass(eq=False, frozen=True, slots=True)
class Place:
    """The place of one claim of these jobs, taken at this time."""

    job_ids: frozenset[str]
    since: float


class FetchPlaces:
    """The places of batches whose images are being fetched: their slow hosts hold up no loop that indexes other
    documents.

    One job has at most half of them, so that the URLs of other jobs pass those of a job whose hosts never answer.
    """

    def __init__(self, places: int, *, slow_after_s: float = 3.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the number of places. A place that is taken for longer than `slow_after_s` counts as stuck, and nobody
        waits for it."""
        self._places, self._per_job, self._slow_after_s, self._clock = places, max(1, places // 2), slow_after_s, clock
        self._taken: set[Place] = set()
        self._departure = asyncio.Event()

    async def take(self, job_ids: Iterable[str]) -> Place | None:
        """Return a place, which `leave` gives back, or None when there will be none soon."""
        jobs = frozenset(job_ids)
        while blocking := self._blocking(jobs):
            departure = self._departure
            patience_s = self._slow_after_s - (self._clock() - max(place.since for place in blocking))
            if patience_s <= 0:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await departure.wait()
        place = Place(jobs, self._clock())
        self._taken.add(place)
        return place

    def leave(self, place: Place) -> None:
        self._taken.discard(place)
        self._departure.set()
        self._departure = asyncio.Event()

    def _blocking(self, jobs: frozenset[str]) -> list[Place]:
        """Return the places of which one must become free before a claim of these jobs gets one."""
        for job in jobs:
            of_job = [place for place in self._taken if job in place.job_ids]
            if len(of_job) >= self._per_job:
                return of_job
        return list(self._taken) if len(self._taken) >= self._places else []
