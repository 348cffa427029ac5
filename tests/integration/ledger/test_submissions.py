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
    settle,
    settle_all,
)

from indexer.domain.collections import Collection
from indexer.domain.documents import Document, ImageRef
from indexer.domain.jobs import JobKind, JobState, Status
from indexer.ledger.ledger import Ledger
from indexer.ledger.submissions import OPEN_S
from model.errors import Conflict, InProgress, InvalidInput, NotFound

# --- collections


def test_a_collection_is_there_until_it_is_dropped(ledger: Ledger) -> None:
    other = Collection("other", "f", "m", 4, 2.5, "find")
    ledger.create_collection(other)
    assert ledger.collection("other") == other
    assert ledger.collections() == [collection(), other]
    with pytest.raises(Conflict, match="other"):
        ledger.create_collection(other)
    ledger.drop_collection("other")
    with pytest.raises(NotFound, match="other"):
        ledger.collection("other")
    with pytest.raises(NotFound):
        ledger.drop_collection("other")


def test_jobs_go_with_their_collection(ledger: Ledger) -> None:
    job = accept(ledger, "ab", "c")
    held = ledger.claim(1, LEASE_S)[0]
    ledger.drop_collection("flags")
    assert not ledger.renew([held], LEASE_S)
    assert not settle(ledger, held)
    assert not ledger.suspect(held, 0)
    ledger.release([held], retry_after_s=0, waiting_on=None)
    assert claimed(ledger) == []
    assert ledger.pending_documents() == 0
    with pytest.raises(NotFound):
        ledger.job(job.id)


# --- accepting


def test_a_job_is_not_worked_on_until_it_is_accepted(ledger: Ledger) -> None:
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS)
    ledger.append(job.id, documents("a", "b"))
    assert claimed(ledger) == []
    assert ledger.jobs() == []
    assert ledger.pending_documents() == 0
    accepted = ledger.commit_job(job.id)
    assert (accepted.state, accepted.accepted) == (JobState.QUEUED, 2)
    assert ledger.pending_documents() == 2
    assert claimed(ledger) == ["ab"]
    assert ledger.job(job.id).state is JobState.RUNNING


def test_a_job_without_documents_has_nothing_to_do(ledger: Ledger, clock: Clock) -> None:
    done = accept(ledger)
    assert (done.state, done.finished_at) == (JobState.SUCCEEDED, clock.now)


def test_an_abandoned_job_never_was_and_an_accepted_one_stays(ledger: Ledger) -> None:
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key")
    ledger.append(job.id, documents("a"))
    ledger.abandon_job(job.id)
    with pytest.raises(NotFound):
        ledger.commit_job(job.id)
    again, new = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key")
    assert new
    ledger.commit_job(again.id)
    ledger.abandon_job(again.id)
    assert ledger.job(again.id).state is JobState.SUCCEEDED


def test_documents_come_back_as_they_were(ledger: Ledger) -> None:
    given = [
        (0, Document("a/ü ☃", "", None, {"n": {"list": [1, 2.5, None, True]}, "big": 2**60})),
        (7, Document("b", None, ImageRef(digest="0" * 64))),
        (8, Document("c", "text", ImageRef(url="https://example.org/é.png"))),
        (9, Document("d", "a zero \x00 in it")),
    ]
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS)
    ledger.append(job.id, given)
    ledger.commit_job(job.id)
    batch = claim(ledger)
    assert list(batch.items) == given
    assert (batch.job_id, batch.collection, batch.kind) == (job.id, "flags", JobKind.DOCUMENTS)


def test_what_the_database_cannot_hold_is_the_callers_fault(ledger: Ledger, url: str) -> None:
    """Else it would be tried again and again, as a database that is away. SQLite holds a zero byte, PostgreSQL does not."""
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS)
    refused = pytest.raises(InvalidInput, match="cannot hold") if url.startswith("postgresql") else nullcontext()
    with refused:
        ledger.append(job.id, [(0, Document("zero\x00"))])


@pytest.mark.parametrize("method", ["job", "commit_job", "cancel_job", "retry_job"])
def test_unknown_jobs(ledger: Ledger, method: str) -> None:
    with pytest.raises(NotFound, match="nothing"):
        getattr(ledger, method)("nothing")


def test_nothing_comes_into_what_there_is_not(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.append("nothing", documents("a"))
    with pytest.raises(NotFound):
        ledger.open_job("unknown", JobKind.DOCUMENTS)


def test_what_nobody_writes_to_any_more_is_erased_and_can_never_be_accepted(ledger: Ledger, clock: Clock) -> None:
    """An upload that was taken for dead must not come back as a job of which half is gone."""
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS)
    for number in range(3):
        ledger.append(job.id, documents(str(number)))
    clock.now += OPEN_S
    assert not ledger.tidy(1e9)
    clock.now += 1
    assert ledger.tidy(1e9), "its batches are gone now, its row not yet"
    for late in (lambda: ledger.append(job.id, documents("x")), lambda: ledger.commit_job(job.id)):
        with pytest.raises(NotFound):
            late()
    while ledger.tidy(1e9):
        pass
    with pytest.raises(NotFound):
        ledger.job(job.id)


@pytest.mark.parametrize("slow", [False, True])
def test_an_upload_that_goes_on_is_not_erased(ledger: Ledger, clock: Clock, slow: bool) -> None:
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS)
    for number in range(3):
        if slow and number:
            ledger.keep_open(job.id)
        else:
            ledger.append(job.id, documents(str(number)))
        clock.now += OPEN_S
        assert not ledger.tidy(1e9)
    assert ledger.commit_job(job.id).accepted == (1 if slow else 3)


# --- Idempotency-Key


def test_the_same_key_and_body_is_the_same_job(ledger: Ledger) -> None:
    first, _ = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key")
    with pytest.raises(InProgress, match="key"):  # the first request is still being received
        ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key")
    accepted = ledger.commit_job(first.id, body_hash="hash")
    assert ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key") == (accepted, False)
    ledger.check_body(first.id, "hash")
    with pytest.raises(Conflict, match="'key' was used with another body"):
        ledger.check_body(first.id, "other")
    with pytest.raises(NotFound):
        ledger.check_body("gone", "hash")
    ledger.create_collection(collection("other"))
    assert ledger.open_job("other", JobKind.DOCUMENTS, idempotency_key="key")[1]


def test_a_key_is_free_again_when_whoever_had_it_died(ledger: Ledger, clock: Clock) -> None:
    dead, _ = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key")
    clock.now += OPEN_S + 1
    again, new = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key")
    assert new
    with pytest.raises(NotFound):  # not dead after all, but there must not be two
        ledger.commit_job(dead.id)
    assert ledger.commit_job(again.id).state is JobState.SUCCEEDED


# --- trying again what failed


def failed_job(ledger: Ledger, *batches: str) -> str:
    job = accept(ledger, *batches)
    settle_all(ledger, Status.FAILED)
    return job.id


def test_a_retry_is_a_new_job_of_the_failures(ledger: Ledger) -> None:
    job = accept(ledger, "ab", "c")
    first, second = ledger.claim(10, LEASE_S)
    ledger.finish([(first, outcomes(first)[:1] + outcomes(first, Status.FAILED)[1:])])
    settle(ledger, second, Status.FAILED)
    again, new = ledger.retry_job(job.id)
    assert new
    assert (again.accepted, again.retry_of, again.state) == (2, job.id, JobState.QUEUED)
    batch = claim(ledger)
    assert [(position, document.id) for position, document in batch.items] == [(1, "b"), (2, "c")]
    settle(ledger, batch)
    assert ledger.job(again.id).state is JobState.SUCCEEDED
    assert ledger.job(job.id).failed == 2, "what happened then stays as it was"


def test_asked_twice_it_is_one_retry(ledger: Ledger) -> None:
    job = failed_job(ledger, "ab")
    again, _ = ledger.retry_job(job)
    assert ledger.retry_job(job) == (again, False)
    settle_all(ledger, Status.FAILED)
    assert ledger.retry_job(job)[0].id == again.id
    third, new = ledger.retry_job(again.id)  # of the retry itself there may be another
    assert (new, third.retry_of) == (True, again.id)


def test_a_later_write_is_not_undone_by_a_retry(ledger: Ledger) -> None:
    """Promise 4: waiting or settled, well or not, it stands."""
    job = failed_job(ledger, "abcde")
    accept(ledger, "a")
    settle_all(ledger)
    later = failed_job(ledger, "b")
    accept(ledger, "c", kind=JobKind.DELETE)  # still waiting
    again, _ = ledger.retry_job(job)
    assert again.accepted == 2
    assert sorted(claimed(ledger)) == ["c", "de"]
    assert ledger.retry_job(later)[0].accepted == 1, "the last write of b is that one"


def test_of_a_document_that_failed_twice_in_one_job_the_last_is_tried_again(ledger: Ledger) -> None:
    job = failed_job(ledger, "aa", "ba")
    again, _ = ledger.retry_job(job)
    batch = claim(ledger)
    assert sorted(ids(batch)) == ["a", "b"]
    assert dict(batch.items)[3].id == "a"
    assert again.accepted == 2


def test_what_cannot_be_tried_again(ledger: Ledger) -> None:
    running = accept(ledger, "a")
    with pytest.raises(Conflict, match="queued"):
        ledger.retry_job(running.id)
    settle_all(ledger)
    with pytest.raises(Conflict, match="nothing to try again"):
        ledger.retry_job(running.id)
    assert [job.id for job in ledger.jobs()] == [running.id], "no half-made job is left"


def test_a_retry_of_many_failures_comes_in_batches(ledger: Ledger) -> None:
    job = failed_job(ledger, *("".join(chr(256 + 50 * row + i) for i in range(50)) for row in range(3)))
    again, _ = ledger.retry_job(job)
    assert again.accepted == 150
    assert [len(batch.items) for batch in ledger.claim(10, LEASE_S)] == [64, 64, 22]


def test_a_write_that_comes_in_while_a_retry_is_made_wins(
    ledger: Ledger, open_ledger: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between copying the failures and accepting them the document is written again: it is copied once more, without it."""
    job, other = failed_job(ledger, "ab"), open_ledger()
    commit, interfered = ledger.commit_job, []

    def late(job_id: str) -> object:
        if not interfered:
            interfered.append(accept(other, "a"))
            settle_all(other)
        return commit(job_id)

    monkeypatch.setattr(ledger, "commit_job", late)
    again, new = ledger.retry_job(job)
    assert (new, again.accepted) == (True, 1)
    assert claimed(ledger) == ["b"]
