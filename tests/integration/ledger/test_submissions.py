"""The way in, on both databases: a job is accepted whole or never was, once for a key, and its failures can be tried again."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
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
    replace_operation,
    settle,
    settle_all,
)

from indexer.domain.collections import Collection
from indexer.domain.documents import Document, ImageRef
from indexer.domain.jobs import Job, JobKind, JobState, Status
from indexer.ledger.ledger import Ledger
from indexer.ledger.submissions import OPEN_S
from model.errors import Conflict, InProgress, InvalidInput, NotFound

# --- collections


def test_a_collection_is_there_until_it_is_dropped(ledger: Ledger) -> None:
    other = Collection("other", "f", "m", 4, 2.5, "find")
    ledger.collections.create.blocking(other)
    assert ledger.collections.find.blocking("other") == other
    assert ledger.collections.all.blocking() == [collection(), other]
    with pytest.raises(Conflict, match="other"):
        ledger.collections.create.blocking(other)
    ledger.collections.drop.blocking("other")
    with pytest.raises(NotFound, match="other"):
        ledger.collections.find.blocking("other")
    with pytest.raises(NotFound):
        ledger.collections.drop.blocking("other")


def test_jobs_go_with_their_collection(ledger: Ledger) -> None:
    job = accept(ledger, "ab", "c")
    held = ledger.batches.claim.blocking(1, LEASE_S)[0]
    ledger.collections.drop.blocking("flags")
    assert not ledger.batches.renew.blocking([held], LEASE_S)
    assert not settle(ledger, held)
    assert not ledger.batches.suspect.blocking(held, 0)
    ledger.batches.release.blocking([held], retry_after_s=0, waiting_on=None)
    assert claimed(ledger) == []
    assert ledger.jobs.pending_documents.blocking() == 0
    with pytest.raises(NotFound):
        ledger.jobs.find.blocking(job.id)


# --- accepting


def test_a_job_is_not_worked_on_until_it_is_accepted(ledger: Ledger) -> None:
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    ledger.submissions.append.blocking(job.id, documents("a", "b"))
    assert claimed(ledger) == []
    assert ledger.jobs.newest.blocking() == []
    assert ledger.jobs.pending_documents.blocking() == 0
    accepted = ledger.submissions.commit.blocking(job.id)
    assert (accepted.state, accepted.accepted) == (JobState.QUEUED, 2)
    assert ledger.jobs.pending_documents.blocking() == 2
    assert claimed(ledger) == ["ab"]
    assert ledger.jobs.find.blocking(job.id).state is JobState.RUNNING


def test_a_job_without_documents_has_nothing_to_do(ledger: Ledger, clock: Clock) -> None:
    done = accept(ledger)
    assert (done.state, done.finished_at) == (JobState.SUCCEEDED, clock.now)


def test_an_abandoned_job_never_was_and_an_accepted_one_stays(ledger: Ledger) -> None:
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    ledger.submissions.append.blocking(job.id, documents("a"))
    ledger.submissions.abandon.blocking(job.id)
    with pytest.raises(NotFound):
        ledger.submissions.commit.blocking(job.id)
    again, new = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    assert new
    ledger.submissions.commit.blocking(again.id)
    ledger.submissions.abandon.blocking(again.id)
    assert ledger.jobs.find.blocking(again.id).state is JobState.SUCCEEDED


def test_documents_come_back_as_they_were(ledger: Ledger) -> None:
    given = [
        (0, Document("a/ü ☃", "", None, {"n": {"list": [1, 2.5, None, True]}, "big": 2**60})),
        (7, Document("b", None, ImageRef(digest="0" * 64))),
        (8, Document("c", "text", ImageRef(url="https://example.org/é.png"))),
        (9, Document("d", "a zero \x00 in it")),
    ]
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    ledger.submissions.append.blocking(job.id, given)
    ledger.submissions.commit.blocking(job.id)
    batch = claim(ledger)
    assert list(batch.items) == given
    assert (batch.job_id, batch.collection, batch.kind) == (job.id, "flags", JobKind.DOCUMENTS)


def test_what_the_database_cannot_hold_is_the_callers_fault(ledger: Ledger, url: str) -> None:
    """Else it would be tried again and again, as a database that is away. SQLite holds a zero byte, PostgreSQL does not."""
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    refused = pytest.raises(InvalidInput, match="cannot hold") if url.startswith("postgresql") else nullcontext()
    with refused:
        ledger.submissions.append.blocking(job.id, [(0, Document("zero\x00"))])


def test_unknown_jobs(ledger: Ledger) -> None:
    for operation in (ledger.jobs.find, ledger.submissions.commit, ledger.jobs.cancel, ledger.retries.start):
        with pytest.raises(NotFound, match="nothing"):
            operation.blocking("nothing")


def test_nothing_comes_into_what_there_is_not(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.submissions.append.blocking("nothing", documents("a"))
    with pytest.raises(NotFound):
        ledger.submissions.open.blocking("unknown", JobKind.DOCUMENTS)


def test_what_nobody_writes_to_any_more_is_erased_and_can_never_be_accepted(ledger: Ledger, clock: Clock) -> None:
    """An upload that was taken for dead must not come back as a job of which half is gone."""
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    for number in range(3):
        ledger.submissions.append.blocking(job.id, documents(str(number)))
    clock.now += OPEN_S
    assert not ledger.housekeeping.tidy.blocking(1e9)
    clock.now += 1
    assert ledger.housekeeping.tidy.blocking(1e9), "its batches are gone now, its row not yet"
    for late in (
        lambda: ledger.submissions.append.blocking(job.id, documents("x")),
        lambda: ledger.submissions.commit.blocking(job.id),
    ):
        with pytest.raises(NotFound):
            late()
    while ledger.housekeeping.tidy.blocking(1e9):
        pass
    with pytest.raises(NotFound):
        ledger.jobs.find.blocking(job.id)


@pytest.mark.parametrize("slow", [False, True])
def test_an_upload_that_goes_on_is_not_erased(ledger: Ledger, clock: Clock, slow: bool) -> None:
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    for number in range(3):
        if slow and number:
            ledger.submissions.keep_open.blocking(job.id)
        else:
            ledger.submissions.append.blocking(job.id, documents(str(number)))
        clock.now += OPEN_S
        assert not ledger.housekeeping.tidy.blocking(1e9)
    assert ledger.submissions.commit.blocking(job.id).accepted == (1 if slow else 3)


# --- Idempotency-Key


def test_the_same_key_and_body_is_the_same_job(ledger: Ledger) -> None:
    first, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    with pytest.raises(InProgress, match="key"):  # the first request is still being received
        ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    accepted = ledger.submissions.commit.blocking(first.id, body_hash="hash")
    assert ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key") == (accepted, False)
    ledger.submissions.check_body.blocking(first.id, "hash")
    with pytest.raises(Conflict, match="'key' was used with another body"):
        ledger.submissions.check_body.blocking(first.id, "other")
    with pytest.raises(NotFound):
        ledger.submissions.check_body.blocking("gone", "hash")
    ledger.collections.create.blocking(collection("other"))
    assert ledger.submissions.open.blocking("other", JobKind.DOCUMENTS, idempotency_key="key")[1]


def test_a_key_is_free_again_when_whoever_had_it_died(ledger: Ledger, clock: Clock) -> None:
    dead, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    clock.now += OPEN_S + 1
    again, new = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
    assert new
    with pytest.raises(NotFound):  # not dead after all, but there must not be two
        ledger.submissions.commit.blocking(dead.id)
    assert ledger.submissions.commit.blocking(again.id).state is JobState.SUCCEEDED


# --- trying again what failed


def failed_job(ledger: Ledger, *batches: str) -> str:
    job = accept(ledger, *batches)
    settle_all(ledger, Status.FAILED)
    return job.id


def test_a_retry_is_a_new_job_of_the_failures(ledger: Ledger) -> None:
    job = accept(ledger, "ab", "c")
    first, second = ledger.batches.claim.blocking(10, LEASE_S)
    ledger.batches.finish.blocking([(first, outcomes(first)[:1] + outcomes(first, Status.FAILED)[1:])])
    settle(ledger, second, Status.FAILED)
    again, new = ledger.retries.start.blocking(job.id)
    assert new
    assert (again.accepted, again.retry_of, again.state) == (2, job.id, JobState.QUEUED)
    batch = claim(ledger)
    assert [(position, document.id) for position, document in batch.items] == [(1, "b"), (2, "c")]
    settle(ledger, batch)
    assert ledger.jobs.find.blocking(again.id).state is JobState.SUCCEEDED
    assert ledger.jobs.find.blocking(job.id).failed == 2, "what happened then stays as it was"


def test_asked_twice_it_is_one_retry(ledger: Ledger) -> None:
    job = failed_job(ledger, "ab")
    again, _ = ledger.retries.start.blocking(job)
    assert ledger.retries.start.blocking(job) == (again, False)
    settle_all(ledger, Status.FAILED)
    assert ledger.retries.start.blocking(job)[0].id == again.id
    third, new = ledger.retries.start.blocking(again.id)  # of the retry itself there may be another
    assert (new, third.retry_of) == (True, again.id)


def test_a_later_write_is_not_undone_by_a_retry(ledger: Ledger) -> None:
    """Promise 4: waiting or settled, well or not, it stands."""
    job = failed_job(ledger, "abcde")
    accept(ledger, "a")
    settle_all(ledger)
    later = failed_job(ledger, "b")
    accept(ledger, "c", kind=JobKind.DELETE)  # still waiting
    again, _ = ledger.retries.start.blocking(job)
    assert again.accepted == 2
    assert sorted(claimed(ledger)) == ["c", "de"]
    assert ledger.retries.start.blocking(later)[0].accepted == 1, "the last write of b is that one"


def test_of_a_document_that_failed_twice_in_one_job_the_last_is_tried_again(ledger: Ledger) -> None:
    job = failed_job(ledger, "aa", "ba")
    again, _ = ledger.retries.start.blocking(job)
    batch = claim(ledger)
    assert sorted(ids(batch)) == ["a", "b"]
    assert dict(batch.items)[3].id == "a"
    assert again.accepted == 2


def test_what_cannot_be_tried_again(ledger: Ledger) -> None:
    running = accept(ledger, "a")
    with pytest.raises(Conflict, match="queued"):
        ledger.retries.start.blocking(running.id)
    settle_all(ledger)
    with pytest.raises(Conflict, match="nothing to try again"):
        ledger.retries.start.blocking(running.id)
    assert [job.id for job in ledger.jobs.newest.blocking()] == [running.id], "no half-made job is left"


def test_a_retry_of_many_failures_comes_in_batches(ledger: Ledger) -> None:
    job = failed_job(ledger, *("".join(chr(256 + 50 * row + i) for i in range(50)) for row in range(3)))
    again, _ = ledger.retries.start.blocking(job)
    assert again.accepted == 150
    assert [len(batch.items) for batch in ledger.batches.claim.blocking(10, LEASE_S)] == [64, 64, 22]


def test_a_write_that_comes_in_while_a_retry_is_made_wins(
    ledger: Ledger, open_ledger: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between copying the failures and accepting them the document is written again: it is copied once more, without it."""
    job, other = failed_job(ledger, "ab"), open_ledger()
    commit = ledger.submissions.commit.blocking
    interfered: list[Job] = []

    def late(job_id: str) -> Job:
        if not interfered:
            interfered.append(accept(other, "a"))
            settle_all(other)
        return commit(job_id)

    replace_operation(monkeypatch, ledger.submissions, "commit", late)
    again, new = ledger.retries.start.blocking(job)
    assert (new, again.accepted) == (True, 1)
    assert claimed(ledger) == ["b"]
