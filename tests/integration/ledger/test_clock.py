"""The wall clock is set back or forward by hours: no wait takes hours more, and nothing is lost."""

from collections.abc import Callable

import pytest
from ledger_steps import LEASE_S, Clock, accept, claim, claimed, collection, documents, ids, settle

from indexer.domain.collections import Reindex
from indexer.domain.jobs import JobKind, JobState
from indexer.ledger.ledger import Ledger
from model.types import ModelInfo

HOURS = 5 * 3600.0
OpenLedger = Callable[..., Ledger]


@pytest.fixture(autouse=True)
def today(clock: Clock) -> None:
    clock.now = 1_800_000_000.0


def test_a_batch_that_waits_for_its_next_attempt(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a")
    ledger.batches.release.blocking([claim(ledger)], retry_after_s=4.0, waiting_on="an encoder")
    assert claimed(ledger) == []
    assert ledger.batches.due_in_s.blocking() == 4.0
    clock.now -= HOURS
    assert ledger.batches.due_in_s.blocking() is None
    assert claimed(ledger) == ["a"]


def test_a_step_of_the_clock_that_is_shorter_than_the_wait_ends_none(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a", "b")
    waits, _ = ledger.batches.claim.blocking(2, LEASE_S)
    ledger.batches.release.blocking([waits], retry_after_s=40.0, waiting_on=None)
    clock.now -= 30.0
    assert claimed(ledger) == []
    assert ledger.batches.due_in_s.blocking() == 70.0


@pytest.mark.parametrize("jump", [-HOURS, HOURS])
def test_a_lease_whose_worker_died(ledger: Ledger, clock: Clock, jump: float) -> None:
    accept(ledger, "a")
    lost = claim(ledger)
    clock.now += jump
    again = claim(ledger)
    assert (ids(again), again.crashes) == ("a", 1)
    assert not settle(ledger, lost), "it was not dead, and hears that it lost its lease"
    assert settle(ledger, again)


@pytest.mark.parametrize("jump", [-HOURS, HOURS])
def test_a_lease_whose_worker_lives_is_renewed(ledger: Ledger, clock: Clock, jump: float) -> None:
    job = accept(ledger, "a")
    batch = claim(ledger)
    clock.now += jump
    assert ledger.batches.renew.blocking([batch], LEASE_S)
    assert claimed(ledger) == []
    assert settle(ledger, batch)
    assert ledger.jobs.find.blocking(job.id).state is JobState.SUCCEEDED


def test_a_clock_that_was_wrong_by_hours_and_is_right_again(ledger: Ledger, clock: Clock) -> None:
    clock.now += HOURS
    accept(ledger, "a", "b")
    waits, _ = ledger.batches.claim.blocking(2, LEASE_S)
    ledger.batches.release.blocking([waits], retry_after_s=4.0, waiting_on="an encoder")
    clock.now -= HOURS
    assert claimed(ledger) == ["a"]
    assert claimed(ledger) == ["b"], "alone, for its lease ended without a report"


def test_a_hold_of_a_whole_collection(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a", "b")
    (first,) = ledger.batches.claim.blocking(1, LEASE_S)
    ledger.batches.release.blocking([first], retry_after_s=4.0, waiting_on="a model", whole_collection=True)
    assert claimed(ledger) == []
    clock.now -= HOURS
    (first, second) = ledger.batches.claim.blocking(2, LEASE_S)
    # Another hold is one of the new time, though it ends before the one of the old time.
    ledger.batches.release.blocking([first], retry_after_s=4.0, waiting_on="a model", whole_collection=True)
    ledger.batches.release.blocking([second], retry_after_s=0.0, waiting_on=None)
    assert claimed(ledger) == []
    clock.now += 5.0
    assert claimed(ledger) == ["a", "b"]


def test_a_step_of_an_import(ledger: Ledger, clock: Clock) -> None:
    ledger.imports.accept.blocking("flags", {"uri": "/exports"})
    step = ledger.imports.claim.blocking(LEASE_S, 10)
    assert step is not None
    ledger.imports.release.blocking(step, retry_after_s=4.0, waiting_on="a bucket")
    assert ledger.imports.claim.blocking(LEASE_S, 10) is None
    clock.now -= HOURS
    assert ledger.imports.claim.blocking(LEASE_S, 10) is not None
    assert ledger.imports.claim.blocking(LEASE_S, 10) is None
    clock.now -= HOURS
    again = ledger.imports.claim.blocking(LEASE_S, 10)
    assert again is not None
    assert again.crashes == 1


def test_cancelling_does_not_wait_for_a_lease_of_another_time(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "a")
    claim(ledger)
    clock.now -= HOURS
    assert ledger.jobs.cancel.blocking(job.id).state is JobState.CANCELLED


def test_a_key_whose_request_died_is_free(ledger: Ledger, clock: Clock) -> None:
    died, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    ledger.submissions.append.blocking(died.id, documents("a"))
    clock.now -= HOURS
    again, new = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    assert (new, again.id != died.id) == (True, True)


def test_a_periodic_task(ledger: Ledger, clock: Clock) -> None:
    ledger.housekeeping.take_turn.blocking("sweep", 60.0)
    clock.now -= HOURS
    assert ledger.housekeeping.take_turn.blocking("sweep", 60.0)
    assert not ledger.housekeeping.take_turn.blocking("sweep", 60.0)


def test_the_end_of_a_generation_that_is_kept(ledger: Ledger, clock: Clock) -> None:
    reindex = switched(ledger, keep_s=600.0)
    assert reindex.seconds_left(clock.now) == 600.0
    assert reindex.seconds_left(clock.now + 601) == 0.0
    assert reindex.seconds_left(clock.now - HOURS) == 0.0
    assert reindex.seconds_left(clock.now - 100) == 700.0


def switched(ledger: Ledger, keep_s: float) -> Reindex:
    reindexes = ledger.reindexes
    reindexes.start.blocking(collection(), ModelInfo("new", "fingerprint-2", 8, 10, 16), documents=0, max_failures=0)
    for change in (reindexes.pause, lambda reindex: reindexes.switch.blocking(reindex, keep_s)):
        reindex = reindexes.find.blocking("flags")
        assert reindex is not None
        assert getattr(change, "blocking", change)(reindex)
    reindex = reindexes.find.blocking("flags")
    assert reindex is not None
    return reindex
