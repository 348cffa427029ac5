"""Waiting for a job: woken at once by this process, found by looking when another one did it, at most so often."""

import asyncio

import pytest
from ledger_steps import accept, collection, replace_operation, settle

from indexer.domain.jobs import Job, JobState
from indexer.ledger.ledger import Ledger
from indexer.worker.progress import Progress
from model.errors import NotFound

NEVER_S = 1_000.0


@pytest.fixture
def job(ledger: Ledger) -> Job:
    ledger.collections.create.blocking(collection())
    return accept(ledger, "a", "b")


async def test_a_change_of_this_process_wakes_at_once(ledger: Ledger, job: Job) -> None:
    progress = Progress(ledger, poll_s=NEVER_S)
    waiting = [asyncio.create_task(progress.wait(job.id, NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0)
    for batch in ledger.batches.claim.blocking(10, NEVER_S):
        settle(ledger, batch)
        progress.notify()
    async with asyncio.timeout(20):
        assert {each.state for each in await asyncio.gather(*waiting)} == {JobState.SUCCEEDED}


async def test_a_change_between_looking_and_waiting_is_not_missed(
    ledger: Ledger, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, look = Progress(ledger, poll_s=NEVER_S), ledger.jobs.find.blocking

    def then_it_ends(job_id: str) -> Job:
        seen = look(job_id)
        if not seen.state.finished:
            for batch in ledger.batches.claim.blocking(10, NEVER_S):
                settle(ledger, batch)
            loop.call_soon_threadsafe(progress.notify)
        return seen

    loop = asyncio.get_running_loop()
    replace_operation(monkeypatch, ledger.jobs, "find", then_it_ends)
    async with asyncio.timeout(20):
        assert (await progress.wait(job.id, NEVER_S)).state is JobState.SUCCEEDED


async def test_a_change_of_another_process_is_found_by_looking(ledger: Ledger, job: Job) -> None:
    waiting = asyncio.create_task(Progress(ledger, poll_s=0.01).wait(job.id, NEVER_S))
    await asyncio.sleep(0)
    for batch in ledger.batches.claim.blocking(10, NEVER_S):
        settle(ledger, batch)
    async with asyncio.timeout(20):
        assert (await waiting).state is JobState.SUCCEEDED


async def test_following_tells_each_change_once_and_the_end(ledger: Ledger, job: Job) -> None:
    progress, seen = Progress(ledger, poll_s=0.01), []
    async with asyncio.timeout(20):
        async for each in progress.follow(job.id, every_s=0):
            seen.append((each.state, each.indexed))
            if not each.state.finished:
                settle(ledger, ledger.batches.claim.blocking(1, NEVER_S)[0])
    assert seen[0] == (JobState.QUEUED, 0)
    assert seen[-1] == (JobState.SUCCEEDED, 2)
    assert len(seen) == len(set(seen))


async def test_following_what_there_is_not(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        await anext(Progress(ledger, poll_s=NEVER_S).follow("nothing", every_s=0))
    with pytest.raises(NotFound):
        await Progress(ledger, poll_s=NEVER_S).wait("nothing", 1)
