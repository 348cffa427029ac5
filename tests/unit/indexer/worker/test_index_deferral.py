"""Deferring the index of what a load fills: a ledger in SQLite, and what is asked of a Qdrant server on the wire."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from ledger_steps import LEASE_S, collection, documents
from recorded_qdrant import Qdrant

from indexer.domain.jobs import JobKind
from indexer.domain.points import Page
from indexer.ledger.ledger import Ledger
from indexer.store.server.settings import INDEXING_THRESHOLD_KB
from indexer.store.server.store import ServerStore
from indexer.worker.index_deferral import BulkLoads
from model.errors import DependencyUnavailable
from model.types import ModelInfo

D = 8
MANY = 10  # documents to come, here
OTHER = ModelInfo("other", "fingerprint-of-other", D, 100, 16)

Start = Callable[[], BulkLoads]


@pytest.fixture
def start(ledger: Ledger, serve: Callable[..., ServerStore]) -> Start:
    """What a process has that has just started."""
    return lambda: BulkLoads(ledger, serve(), MANY, every_s=0.01)


@pytest.fixture(autouse=True)
def flags(ledger: Ledger, qdrant: Qdrant) -> None:
    """A collection with nothing in it."""
    ledger.collections.create.blocking(collection("flags"))
    qdrant.add("flags", D)


def told(qdrant: Qdrant, name: str = "flags") -> list[int]:
    return [body["optimizers_config"]["indexing_threshold"] for body in qdrant.bodies("PATCH", f"/ret2~~{name}")]


def begin_import(ledger: Ledger, count: int, name: str = "flags") -> str:
    """Planned, of which nothing is read yet."""
    job = ledger.imports.accept.blocking(name, {"uri": "file"})
    step = ledger.imports.claim.blocking(LEASE_S, 0)
    assert step is not None
    span: dict[str, Any] = {"first": 0, "span": {"count": count}}
    assert ledger.imports.add_units.blocking(step, [span], LEASE_S)
    assert ledger.imports.end_plan.blocking(step)
    return job.id


async def test_an_import_defers_it_once_and_its_end_brings_it_back_once(
    ledger: Ledger,
    qdrant: Qdrant,
    start: Start,
) -> None:
    chore = start()
    await chore.look()
    assert told(qdrant) == []
    job = begin_import(ledger, MANY)
    for _ in range(3):
        await chore.look()
    assert told(qdrant) == [0]
    ledger.jobs.cancel.blocking(job)
    for _ in range(3):
        await chore.look()
    assert told(qdrant) == [0, INDEXING_THRESHOLD_KB]


async def test_what_a_process_that_died_deferred_any_other_brings_back(
    ledger: Ledger, qdrant: Qdrant, start: Start
) -> None:
    beside = start()
    for another in (lambda: beside, start):  # one that ran all the while, and one that is started afterwards
        job = begin_import(ledger, MANY)
        await start().look()
        await beside.look()
        ledger.jobs.cancel.blocking(job)
        await another().look()
    assert told(qdrant) == [0, INDEXING_THRESHOLD_KB] * 2


@pytest.mark.parametrize(("held", "to_come", "deferred"), [(0, MANY - 1, False), (MANY, MANY, False), (9, MANY, True)])
async def test_few_documents_or_no_more_than_are_there_are_indexed_as_they_come(
    ledger: Ledger,
    qdrant: Qdrant,
    start: Start,
    held: int,
    to_come: int,
    deferred: bool,
) -> None:
    qdrant.held["ret2~~flags"] = held
    begin_import(ledger, to_come)
    await start().look()
    assert told(qdrant) == ([0] if deferred else [])


async def test_many_small_posts_and_deletions_are_no_load(ledger: Ledger, qdrant: Qdrant, start: Start) -> None:
    for number in range(MANY):
        post, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
        ledger.submissions.append.blocking(post.id, documents(f"a{number}", f"b{number}"))
        ledger.submissions.commit.blocking(post.id)
    deletion, _ = ledger.submissions.open.blocking("flags", JobKind.DELETE)
    ledger.submissions.append.blocking(deletion.id, documents(*map(str, range(MANY))))
    ledger.submissions.commit.blocking(deletion.id)
    await start().look()
    assert told(qdrant) == []


async def test_a_reindex_defers_that_of_the_generation_it_fills(ledger: Ledger, qdrant: Qdrant, start: Start) -> None:
    qdrant.held["ret2~~flags"] = 100
    ledger.reindexes.start.blocking(ledger.collections.find.blocking("flags"), OTHER, documents=100, max_failures=0)
    (reindex,) = ledger.reindexes.all.blocking()
    await start().look()  # the generation is not made yet
    qdrant.add(reindex.points_name, D)
    await start().look()
    assert (told(qdrant), told(qdrant, reindex.points_name)) == ([], [0])
    qdrant.held[f"ret2~~{reindex.points_name}"] = 95
    assert ledger.reindexes.plan_page.blocking(
        reindex, Page((), None)
    )  # there are fewer than there were: none is to come
    await start().look()
    assert (told(qdrant), told(qdrant, reindex.points_name)) == ([], [0, INDEXING_THRESHOLD_KB])


async def test_a_generation_that_is_about_to_go_is_left_as_it_is(ledger: Ledger, qdrant: Qdrant, start: Start) -> None:
    ledger.reindexes.start.blocking(ledger.collections.find.blocking("flags"), OTHER, documents=100, max_failures=0)
    (reindex,) = ledger.reindexes.all.blocking()
    qdrant.add(reindex.points_name, D)
    await start().look()
    assert ledger.reindexes.drop.blocking(reindex)
    await start().look()
    assert told(qdrant, reindex.points_name) == [0]


async def test_it_goes_by_the_clock_and_on_after_an_outage(ledger: Ledger, qdrant: Qdrant, start: Start) -> None:
    begin_import(ledger, MANY)
    qdrant.refuse = httpx.Response(503)
    chore = start()
    with pytest.raises(DependencyUnavailable):
        await chore.look()
    running = asyncio.create_task(chore.run())
    asked = len(qdrant.asked)
    try:
        async with asyncio.timeout(20):
            while len(qdrant.asked) == asked:  # noqa: ASYNC110  what is waited for is another task's doing
                await asyncio.sleep(0.005)
            qdrant.refuse = None
            while not told(qdrant):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    finally:
        running.cancel()
    assert told(qdrant) == [0]
