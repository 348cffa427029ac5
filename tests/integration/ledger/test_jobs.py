"""Jobs as others see them, on both databases: listing, failures by pages, cancelling, forgetting."""

from collections.abc import Callable
from typing import Any

import pytest
from ledger_steps import LEASE_S, Clock, accept, claim, claimed, collection, outcomes, results, settle, settle_all

from indexer.domain.jobs import JobKind, JobState, Status
from indexer.ledger.batches import _CANCEL_BATCHES, cancel_some
from indexer.ledger.ledger import Ledger
from model.errors import NotFound


def test_failures_come_in_pages(ledger: Ledger) -> None:
    job = accept(ledger, "ab", "cd")
    for batch in reversed(ledger.batches.claim.blocking(10, LEASE_S)):
        settle(ledger, batch, Status.FAILED)
    assert [each.document_id for each in ledger.jobs.failures.blocking(job.id, limit=3)] == ["a", "b", "c"]
    assert [each.document_id for each in ledger.jobs.failures.blocking(job.id, limit=3, offset=3)] == ["d"]


def test_jobs_are_listed_newest_first(ledger: Ledger, clock: Clock) -> None:
    ledger.collections.create.blocking(collection("other"))
    made = []
    for name in ("flags", "other", "flags"):
        clock.now += 1
        made.append(accept(ledger, "a", name=name))
    assert [job.id for job in ledger.jobs.newest.blocking()] == [job.id for job in reversed(made)]
    assert [job.id for job in ledger.jobs.newest.blocking(collection="flags")] == [made[2].id, made[0].id]
    assert [job.id for job in ledger.jobs.newest.blocking(limit=1, offset=1)] == [made[1].id]
    assert ledger.jobs.newest.blocking(states=[JobState.SUCCEEDED]) == []
    assert len(ledger.jobs.newest.blocking(states=[JobState.QUEUED, JobState.RUNNING])) == 3


# --- cancelling


def test_a_job_that_nobody_has_begun_is_cancelled_at_once(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "ab", "c")
    done = ledger.jobs.cancel.blocking(job.id)
    assert (done.state, done.cancelled, done.left) == (JobState.CANCELLED, 3, 0)
    assert done.finished_at == clock.now
    assert claimed(ledger) == []
    assert [one.status for one in results(ledger, job.id)] == [Status.CANCELLED] * 3
    assert ledger.jobs.failures.blocking(job.id) == []
    assert ledger.jobs.cancel.blocking(job.id) == done, "once more changes nothing"


def test_what_is_in_hand_is_finished_first(ledger: Ledger) -> None:
    job = accept(ledger, "ab", "cd", "ef")
    held = ledger.batches.claim.blocking(1, LEASE_S)[0]
    stopping = ledger.jobs.cancel.blocking(job.id)
    assert (stopping.state.finished, stopping.cancelling, stopping.cancelled) == (False, True, 4)
    assert claimed(ledger) == []
    ledger.batches.finish.blocking([(held, outcomes(held)[:1])], retry_after_s=5, waiting_on="a host")
    done = ledger.jobs.find.blocking(job.id)
    assert (done.state, done.indexed, done.cancelled, done.waiting_on) == (JobState.CANCELLED, 1, 5, None)


def test_what_is_given_back_after_cancelling_ends_there(ledger: Ledger) -> None:
    job, other = accept(ledger, "ab"), accept(ledger, "c")
    held = ledger.batches.claim.blocking(10, LEASE_S, max_documents=10)
    ledger.jobs.cancel.blocking(job.id)
    ledger.batches.release.blocking(held, retry_after_s=60, waiting_on="the encoder")
    done, waits = ledger.jobs.find.blocking(job.id), ledger.jobs.find.blocking(other.id)
    assert (done.state, done.cancelled, done.waiting_on) == (JobState.CANCELLED, 2, None)
    assert (waits.state, waits.cancelled) == (JobState.WAITING, 0)


def test_what_a_dead_worker_had_of_a_cancelled_job_is_tidied(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "ab")
    claim(ledger)
    ledger.jobs.cancel.blocking(job.id)
    assert not ledger.housekeeping.tidy.blocking(1e9)
    assert not ledger.jobs.find.blocking(job.id).state.finished
    clock.now += LEASE_S
    ledger.housekeeping.tidy.blocking(1e9)
    assert ledger.jobs.find.blocking(job.id).state is JobState.CANCELLED


def test_cancelling_lets_later_writes_through(ledger: Ledger) -> None:
    job = accept(ledger, "ab")
    accept(ledger, "b")
    assert claimed(ledger, 1) == ["ab"]
    ledger.batches.release.blocking([], retry_after_s=0, waiting_on=None)
    accept(ledger, "a", kind=JobKind.DELETE)
    waiting = accept(ledger, "z")
    assert claimed(ledger) == ["z"]
    assert ledger.jobs.cancel.blocking(waiting.id).cancelled == 0
    ledger.jobs.cancel.blocking(job.id)
    assert claimed(ledger) == [], "its batch is still in hand"


def test_a_finished_job_stays_as_it_is(ledger: Ledger) -> None:
    job = accept(ledger, "a")
    settle_all(ledger)
    assert ledger.jobs.cancel.blocking(job.id).state is JobState.SUCCEEDED


def test_a_job_of_many_batches_is_cancelled_in_small_transactions(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept(ledger, *(chr(256 + i) for i in range(2 * _CANCEL_BATCHES + 1)))
    steps: list[bool] = []

    def cancel_and_note(*arguments: Any) -> bool:
        steps.append(cancel_some(*arguments))
        return steps[-1]

    monkeypatch.setattr("indexer.ledger.jobs.cancel_some", cancel_and_note)
    assert ledger.jobs.cancel.blocking(job.id).state is JobState.CANCELLED
    assert steps == [True, True, False]


# --- forgetting


def test_a_finished_job_is_kept_for_a_time(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "ab", "c")
    settle_all(ledger, Status.FAILED)
    unfinished = accept(ledger, "d")
    clock.now += 100
    assert not ledger.housekeeping.tidy.blocking(retention_s=100)
    clock.now += 1
    while ledger.housekeeping.tidy.blocking(retention_s=100):
        pass
    with pytest.raises(NotFound):
        ledger.jobs.find.blocking(job.id)
    assert ledger.jobs.failures.blocking(job.id) == []
    assert results(ledger, job.id) == []
    assert [one.id for one in ledger.jobs.newest.blocking()] == [unfinished.id]
    assert claimed(ledger) == ["d"]


def test_a_job_is_forgotten_piece_by_piece_and_by_several_at_once(
    ledger: Ledger, open_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    jobs = [accept(ledger, *(chr(256 + i) for i in range(250))).id for _ in range(2)]
    settle_all(ledger)
    clock.now += 1
    other, steps = open_ledger(), 0
    while ledger.housekeeping.tidy.blocking(retention_s=0) or other.housekeeping.tidy.blocking(retention_s=0):
        steps += 1
    assert steps >= 4
    for job in jobs:
        with pytest.raises(NotFound):
            ledger.jobs.find.blocking(job)
