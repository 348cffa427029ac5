"""Hosts that do not answer: the breaker of each, and the places of batches that fetch."""

import asyncio
import random

import pytest

from indexer.settings import IndexerSettings
from indexer.worker.hosts import FAILURES, MAX_HOSTS, FetchPlaces, HostBreaker
from model.errors import DependencyUnavailable, InvalidInput

SETTINGS = IndexerSettings(retry_base_s=0.5, retry_max_s=60.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Hosts:
    """Answers as `down` says, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = {"dead.example"}

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        if any(f"//{host}/" in url for host in self.down):
            raise DependencyUnavailable("no answer")
        if url.endswith("wrong"):
            raise InvalidInput("no image")
        return b"image"


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def failures(breaker: HostBreaker, count: int, host: str = "dead.example") -> list[str]:
    said = []
    for number in range(count):
        with pytest.raises(DependencyUnavailable) as error:
            await breaker.fetch(f"http://{host}/{number}")
        said.append(error.value.detail)
    return said


class Longest(random.Random):
    """Draws the longest delay."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_a_host_that_keeps_failing_is_not_asked_for_a_while(clock: Clock) -> None:
    hosts = Hosts()
    breaker = HostBreaker(hosts, SETTINGS, clock, Longest())
    said = await failures(breaker, 10)
    assert len(hosts.asked) == FAILURES
    assert said[-1] == "dead.example failed 3 times in a row; it is asked again in 5 s"
    assert await breaker.fetch("http://good.example/a") == b"image"
    clock.now = 5.1
    await failures(breaker, 10)
    assert len(hosts.asked) == FAILURES + 2, "one request tries, the others do not"
    clock.now += 9.9
    await failures(breaker, 1)
    assert len(hosts.asked) == FAILURES + 2, "the pause has doubled"
    clock.now += 0.2
    hosts.down = set()
    for _ in range(5):
        assert await breaker.fetch("http://dead.example/x") == b"image"


async def test_breakers_that_failed_together_do_not_try_together(clock: Clock) -> None:
    everyone = [Hosts() for _ in range(20)]
    breakers = [HostBreaker(hosts, SETTINGS, clock, random.Random(seed)) for seed, hosts in enumerate(everyone)]
    for breaker in breakers:
        await failures(breaker, FAILURES)
    for clock.now, fewest, most in ((2.4, 0, 0), (3.75, 3, 17), (5.0, 20, 20)):
        for breaker in breakers:
            await failures(breaker, 1)
        assert fewest <= sum(len(hosts.asked) > FAILURES for hosts in everyone) <= most


async def test_an_answer_that_is_wrong_is_an_answer(clock: Clock) -> None:
    hosts = Hosts()
    breaker = HostBreaker(hosts, SETTINGS, clock)
    for _ in range(10):
        with pytest.raises(InvalidInput):
            await breaker.fetch("http://good.example/wrong")
    assert len(hosts.asked) == 10
    await failures(breaker, FAILURES - 1)
    hosts.down = set()
    await breaker.fetch("http://dead.example/x")
    hosts.down = {"dead.example"}
    await failures(breaker, FAILURES - 1)
    assert len(hosts.asked) == 10 + 2 * FAILURES - 1, "failures are counted in a row"


async def test_the_hosts_remembered_are_bounded(clock: Clock) -> None:
    breaker = HostBreaker(Hosts(), SETTINGS, clock)
    for number in range(MAX_HOSTS + 5):
        breaker._count_failure(f"h{number}.example")
    assert len(breaker._hosts) == MAX_HOSTS


async def test_a_stuck_job_has_half_of_the_places_and_nobody_waits_for_it(clock: Clock) -> None:
    places = FetchPlaces(4, slow_after_s=3.0, clock=clock)
    stuck = [await places.take(["a"]) for _ in range(2)]
    assert all(stuck)
    clock.now = 3.1
    assert await places.take(["a"]) is None
    assert await places.take(["b", "a"]) is None
    assert await places.take(["b"])
    assert await places.take(["c"])
    clock.now = 10.0
    assert await places.take(["d"]) is None
    places.leave(stuck[0])  # type: ignore[arg-type]
    assert await places.take(["a"])


async def test_a_place_that_will_soon_be_left_is_waited_for(clock: Clock) -> None:
    places = FetchPlaces(2, slow_after_s=3.0, clock=clock)
    first, second = await places.take(["a"]), await places.take(["b"])
    waiting = asyncio.create_task(places.take(["c"]))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert first is not None
    places.leave(first)
    async with asyncio.timeout(1):
        assert await waiting is not None
    assert second is not None
