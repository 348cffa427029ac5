"""Claims, leases and outcomes, on both databases: who holds what, in which order documents are written, what is counted."""

from collections.abc import Callable

from ledger_steps import (
    LEASE_S,
    Clock,
    accept,
    claim,
    claimed,
    collection,
    documents,
    ids,
    outcomes,
    results,
    settle,
    settle_all,
)

from indexer.domain.jobs import Failure, JobKind, JobState, Outcome, Status
from indexer.ledger.batches import SOLO_AFTER
from indexer.ledger.ledger import Ledger

# --- claiming


def test_a_batch_is_held_by_one(ledger: Ledger) -> None:
    accept(ledger, "ab", "cd", "ef")
    assert claimed(ledger, 2) == ["ab", "cd"]
    assert claimed(ledger, 2) == ["ef"]
    assert claimed(ledger, 2) == []


def test_small_batches_are_claimed_together_up_to_a_number_of_documents(ledger: Ledger) -> None:
    ledger.collections.create.blocking(collection("other"))
    accept(ledger, "ab")
    accept(ledger, "x", name="other")
    accept(ledger, "y", kind=JobKind.DELETE)
    accept(ledger, "cd", "ef", "gh")
    assert claimed(ledger, max_documents=6) == ["ab", "cd", "ef"]
    assert claimed(ledger, max_documents=6) == ["x"]
    assert claimed(ledger, max_documents=6) == ["y"]
    assert claimed(ledger, max_documents=1) == ["gh"], "a batch is never cut"


def test_no_two_of_a_claim_write_the_same_document(ledger: Ledger) -> None:
    accept(ledger, "ab")
    accept(ledger, "b")
    accept(ledger, "c")
    assert claimed(ledger, max_documents=10) == ["ab", "c"]


def test_a_stale_lease_is_reclaimed_and_its_old_holder_records_nothing(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "ab")
    old = claim(ledger)
    clock.now += LEASE_S - 1
    assert claimed(ledger) == []
    clock.now += 1
    new = claim(ledger)
    assert ids(new) == "ab"

    assert not ledger.batches.renew.blocking([old], LEASE_S)
    assert not ledger.batches.suspect.blocking(old, 0)
    assert not settle(ledger, old)
    ledger.batches.release.blocking([old], retry_after_s=0, waiting_on="something")
    assert ledger.jobs.find.blocking(job.id).state is JobState.RUNNING
    assert claimed(ledger) == []

    assert settle(ledger, new)
    assert not settle(ledger, new)
    assert ledger.jobs.find.blocking(job.id).indexed == 2


def test_of_a_claim_whose_leases_were_lost_in_part_the_rest_is_recorded(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "a", "b")
    first, second = ledger.batches.claim.blocking(10, LEASE_S)
    clock.now += LEASE_S - 1
    assert ledger.batches.renew.blocking([second], LEASE_S)
    clock.now += 1
    (taken,) = ledger.batches.claim.blocking(10, LEASE_S)
    assert not ledger.batches.renew.blocking([first, second], LEASE_S)
    assert not ledger.batches.finish.blocking([(first, outcomes(first)), (second, outcomes(second))])
    assert ledger.jobs.find.blocking(job.id).indexed == 1
    assert settle(ledger, taken)
    assert ledger.jobs.find.blocking(job.id).state is JobState.SUCCEEDED


def test_a_renewed_lease_holds(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a")
    batch = claim(ledger)
    for _ in range(3):
        clock.now += LEASE_S - 1
        assert ledger.batches.renew.blocking([batch], LEASE_S)
    assert claimed(ledger) == []


# --- order


def test_writes_of_one_document_keep_their_order(ledger: Ledger) -> None:
    """Promise 4: whoever works on the earlier batch, or no one, a later one with the same document waits."""
    accept(ledger, "ab", "bc")
    accept(ledger, "b", kind=JobKind.DELETE)
    accept(ledger, "d")
    first, free = ledger.batches.claim.blocking(10, LEASE_S)
    assert (ids(first), ids(free)) == ("ab", "d")
    assert claimed(ledger) == []
    ledger.batches.release.blocking([first], retry_after_s=100, waiting_on="encoder")
    assert claimed(ledger) == [], "it waits, and so do those behind it"


def test_a_batch_waits_only_for_documents_that_are_left(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "ab")
    accept(ledger, "a")
    accept(ledger, "b")
    first = claim(ledger)
    ledger.batches.finish.blocking([(first, outcomes(first)[:1])], retry_after_s=5)
    assert claimed(ledger) == ["a"]
    clock.now += 5
    rest = claim(ledger)
    assert ids(rest) == "b"
    settle(ledger, rest)
    assert claimed(ledger) == ["b"]


def test_the_order_is_that_of_accepting_not_of_opening(ledger: Ledger) -> None:
    slow, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    ledger.submissions.append.blocking(slow.id, documents("a"))
    quick = accept(ledger, "a")
    ledger.submissions.commit.blocking(slow.id)
    first = claim(ledger)
    assert first.job_id == quick.id
    settle(ledger, first)
    assert claim(ledger).job_id == slow.id


def test_other_collections_do_not_wait(ledger: Ledger) -> None:
    ledger.collections.create.blocking(collection("other"))
    accept(ledger, "a")
    accept(ledger, "a", name="other")
    assert claimed(ledger) == ["a", "a"]


# --- waiting


def test_a_batch_is_claimed_when_it_is_due(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "a")
    assert ledger.batches.due_in_s.blocking() is None  # it is due already
    batch = claim(ledger)
    assert ledger.batches.due_in_s.blocking() == LEASE_S
    ledger.batches.release.blocking([batch], retry_after_s=5, waiting_on="the encoder\x00")
    assert ledger.batches.due_in_s.blocking() == 5
    waiting = ledger.jobs.find.blocking(job.id)
    assert (waiting.state, waiting.waiting_on) == (JobState.WAITING, "the encoder\ufffd")
    assert claimed(ledger) == []
    clock.now += 5
    batch = claim(ledger)
    assert (batch.releases, batch.attempts, batch.crashes) == (1, 0, 0)
    settle(ledger, batch)
    done = ledger.jobs.find.blocking(job.id)
    assert (done.state, done.waiting_on, done.finished_at) == (JobState.SUCCEEDED, None, clock.now)
    assert ledger.batches.due_in_s.blocking() is None


def test_a_collection_that_cannot_be_written_is_held_up_as_a_whole(ledger: Ledger, clock: Clock) -> None:
    ledger.collections.create.blocking(collection("other"))
    accept(ledger, "a", "b", "c", "d")
    accept(ledger, "x", kind=JobKind.DELETE)
    first, held = ledger.batches.claim.blocking(2, LEASE_S)
    ledger.batches.release.blocking([first], retry_after_s=5, waiting_on="a model", whole_collection=True)
    accept(ledger, "e", name="other")
    accept(ledger, "f")
    assert claimed(ledger) == ["x", "e"], "deleting needs no model, and other collections do not wait"
    assert ledger.batches.due_in_s.blocking() == 5
    assert ledger.batches.renew.blocking([held], LEASE_S)
    with ledger.database._engine.connect() as connection:
        touched = connection.exec_driver_sql("SELECT count(*) FROM batches WHERE not_before > 0").scalar_one()
    assert touched == 1, "a small transaction, however much waits"
    clock.now += 5
    assert claimed(ledger) == ["a", "c", "d", "f"]


def test_a_hold_is_never_made_shorter(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a", "b")
    first, second = ledger.batches.claim.blocking(2, LEASE_S)
    ledger.batches.release.blocking([first], retry_after_s=5, waiting_on="a model", whole_collection=True)
    ledger.batches.release.blocking([second], retry_after_s=1, waiting_on="a model", whole_collection=True)
    clock.now += 1
    assert claimed(ledger) == []
    clock.now += 4
    assert claimed(ledger) == ["a", "b"]


def test_giving_back_at_a_stop_is_no_wait(ledger: Ledger) -> None:
    job = accept(ledger, "a")
    ledger.batches.release.blocking([claim(ledger)], retry_after_s=0, waiting_on=None)
    assert ledger.jobs.find.blocking(job.id).state is JobState.RUNNING
    batch = claim(ledger)
    assert (batch.releases, batch.attempts, batch.crashes) == (0, 0, 0)


# --- outcomes


def test_counts_failures_and_results(ledger: Ledger) -> None:
    job = accept(ledger, "abc", "d")
    first, second = ledger.batches.claim.blocking(10, LEASE_S)
    kept, skipped, bad = outcomes(first)
    some = [
        kept,
        Outcome(skipped.position, "b", Status.SKIPPED),
        Outcome(bad.position, "c", Status.FAILED, "invalid_input", "image is broken\x00"),
    ]
    ledger.batches.finish.blocking([(first, some)])
    half = ledger.jobs.find.blocking(job.id)
    assert (half.state, half.accepted, half.indexed, half.skipped, half.failed) == (JobState.RUNNING, 4, 1, 1, 1)
    assert ledger.jobs.pending_documents.blocking() == half.left == 1
    settle(ledger, second)
    assert ledger.jobs.find.blocking(job.id).state is JobState.SUCCEEDED_WITH_FAILURES
    assert ledger.jobs.failures.blocking(job.id) == [Failure(job.id, 2, "c", "invalid_input", "image is broken\ufffd")]
    assert [(each.position, each.status, each.code) for each in results(ledger, job.id)] == [
        (0, Status.INDEXED, None),
        (1, Status.SKIPPED, None),
        (2, Status.FAILED, "invalid_input"),
        (3, Status.INDEXED, None),
    ]
    assert claimed(ledger) == []


def test_a_job_of_which_nothing_worked_has_failed(ledger: Ledger) -> None:
    job = accept(ledger, "ab")
    settle_all(ledger, Status.FAILED)
    assert ledger.jobs.find.blocking(job.id).state is JobState.FAILED


def test_what_has_no_outcome_is_tried_again(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "abc")
    batch = claim(ledger)
    ledger.batches.finish.blocking([(batch, outcomes(batch)[1:2])], retry_after_s=3, waiting_on="example.org")
    assert ledger.jobs.find.blocking(job.id).waiting_on == "example.org"
    clock.now += 3
    rest = claim(ledger)
    assert (ids(rest), rest.attempts) == ("ac", 1)
    settle(ledger, rest)
    assert [each.document_id for each in results(ledger, job.id)] == ["a", "b", "c"]
    assert ledger.jobs.find.blocking(job.id).indexed == 3


def test_batches_of_several_jobs_are_settled_in_one_transaction(ledger: Ledger) -> None:
    jobs = [accept(ledger, each).id for each in "abc"]
    assert ledger.batches.finish.blocking(
        [(batch, outcomes(batch)) for batch in ledger.batches.claim.blocking(10, LEASE_S, max_documents=10)]
    )
    assert [ledger.jobs.find.blocking(each).state for each in jobs] == [JobState.SUCCEEDED] * 3


# --- workers that die


def test_what_a_dead_worker_had_in_hand_is_tried_alone(ledger: Ledger, clock: Clock) -> None:
    """Whichever of them killed it: nothing else is in flight while one of them is tried."""
    accept(ledger, "a", "b", "c")
    assert claimed(ledger, 2) == ["a", "b"]
    clock.now += LEASE_S
    assert claimed(ledger, alone=False) == []
    assert claimed(ledger) == ["a"]
    assert claimed(ledger) == ["b"]
    assert claimed(ledger) == ["c"]


def test_crashes_are_counted_and_forgotten_when_all_is_well(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "ab")
    for crashes in range(3):
        batch = claim(ledger)
        assert batch.crashes == crashes
        clock.now += LEASE_S
    batch = claim(ledger)
    ledger.batches.finish.blocking([(batch, outcomes(batch)[:1])])
    assert claim(ledger).crashes == 0


def test_the_document_that_was_tried_is_known_after_a_crash(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "abc")
    for _ in range(SOLO_AFTER):
        claim(ledger)
        clock.now += LEASE_S
    batch = claim(ledger)
    assert (batch.crashes, batch.suspect) == (SOLO_AFTER, None)
    assert ledger.batches.suspect.blocking(batch, 0)
    assert ledger.batches.finish.blocking([(batch, outcomes(batch)[:1])], keep=True)
    assert ledger.jobs.find.blocking(job.id).indexed == 1
    assert ledger.batches.suspect.blocking(batch, 1)
    clock.now += LEASE_S
    again = claim(ledger)
    assert (ids(again), again.suspect, again.crashes) == ("bc", 1, SOLO_AFTER + 1)
    assert ledger.batches.finish.blocking([(again, outcomes(again, Status.FAILED)[:1])], keep=True)
    assert claimed(ledger) == [], "it is still held"
    clock.now += LEASE_S
    last = claim(ledger)
    assert (ids(last), last.suspect, last.crashes) == ("c", None, SOLO_AFTER + 1)


def test_taking_over_frees_what_the_last_process_left(
    ledger: Ledger, open_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    job = accept(ledger, "ab")
    half, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    ledger.submissions.append.blocking(half.id, documents("x"))
    held = claim(ledger)

    after = open_ledger(exclusive=True)
    assert after.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")[1]
    batch = claim(after)
    assert (ids(batch), batch.crashes) == ("ab", 1)
    assert not settle(after, held)
    assert settle(after, batch)
    assert after.jobs.find.blocking(job.id).state is JobState.SUCCEEDED


def test_opening_beside_another_process_takes_nothing_from_it(
    ledger: Ledger, open_ledger: Callable[..., Ledger]
) -> None:
    accept(ledger, "ab")
    held = claim(ledger)
    assert claimed(open_ledger()) == []
    assert settle(ledger, held)
