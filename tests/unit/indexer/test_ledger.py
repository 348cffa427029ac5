"""The ledger on a real SQLite file: what is accepted, who holds what, and that the counts always add up."""

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.ledger import Ledger
from indexer.records import Batch, Collection, Document, Failure, ImageRef, Job, JobKind, JobState, Outcome, Status
from model.errors import Conflict, DependencyUnavailable, NotFound

LEASE_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    opened = Ledger(url, clock=clock)
    opened.create_collection(collection())
    yield opened
    opened.close()


def collection(name: str = "flags") -> Collection:
    return Collection(name, "fingerprint", "model", 8, 1.5, None)


def documents(*ids: str) -> list[tuple[int, Document]]:
    return [(position, Document(each, text=f"text of {each}")) for position, each in enumerate(ids)]


def accept(ledger: Ledger, *batches: str, name: str = "flags", kind: JobKind = JobKind.DOCUMENTS) -> Job:
    """A job of one batch for each string; every character is the id of a document."""
    job, new = ledger.open_job(name, kind)
    assert new
    position = 0
    for ids in batches:
        ledger.append(job.id, [(position + i, Document(each)) for i, each in enumerate(ids)])
        position += len(ids)
    return ledger.commit_job(job.id)


def outcomes(batch: Batch, status: Status = Status.INDEXED) -> list[Outcome]:
    why = ("bad", "why") if status is Status.FAILED else (None, None)
    return [Outcome(position, document.id, status, *why) for position, document in batch.items]


def ids(batch: Batch) -> str:
    return "".join(document.id for _, document in batch.items)


def claimed(ledger: Ledger, limit: int = 100) -> list[str]:
    return [ids(batch) for batch in ledger.claim(limit, LEASE_S)]


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
    assert not ledger.renew(held, LEASE_S)
    assert not ledger.finish(held, outcomes(held))
    ledger.release(held, retry_after_s=0, waiting_on=None)
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


def test_a_job_without_documents_has_nothing_to_do(ledger: Ledger) -> None:
    assert accept(ledger).state is JobState.SUCCEEDED


def test_an_abandoned_job_never_was_and_an_accepted_one_stays(ledger: Ledger) -> None:
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="hash")
    ledger.append(job.id, documents("a"))
    ledger.abandon_job(job.id)
    with pytest.raises(NotFound):
        ledger.commit_job(job.id)
    again, new = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="another")
    assert new
    ledger.commit_job(again.id)
    ledger.abandon_job(again.id)
    assert ledger.job(again.id).state is JobState.SUCCEEDED


def test_documents_come_back_as_they_were(ledger: Ledger) -> None:
    given = [
        (0, Document("a/ü ☃", "", None, {"n": {"list": [1, 2.5, None, True]}, "big": 2**60})),
        (7, Document("b", None, ImageRef(digest="0" * 64))),
        (8, Document("c", "text", ImageRef(url="https://example.org/é.png"))),
    ]
    job, _ = ledger.open_job("flags", JobKind.DOCUMENTS)
    ledger.append(job.id, given)
    ledger.commit_job(job.id)
    (batch,) = ledger.claim(1, LEASE_S)
    assert list(batch.items) == given
    assert (batch.job_id, batch.collection, batch.kind) == (job.id, "flags", JobKind.DOCUMENTS)


@pytest.mark.parametrize("method", ["job", "commit_job"])
def test_unknown_jobs(ledger: Ledger, method: str) -> None:
    with pytest.raises(NotFound, match="nothing"):
        getattr(ledger, method)("nothing")
    with pytest.raises(NotFound):
        ledger.append("nothing", documents("a"))
    with pytest.raises(NotFound):
        ledger.open_job("unknown", JobKind.DOCUMENTS)


# --- Idempotency-Key


def test_the_same_key_and_body_is_the_same_job(ledger: Ledger) -> None:
    first, _ = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="hash")
    with pytest.raises(Conflict, match="key"):  # the first request is still being received
        ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="hash")
    accepted = ledger.commit_job(first.id)
    assert ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="hash") == (accepted, False)
    with pytest.raises(Conflict, match="another body"):
        ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="other")
    ledger.create_collection(collection("other"))
    assert ledger.open_job("other", JobKind.DOCUMENTS, idempotency_key="key", body_hash="other")[1]


# --- claiming


def test_a_batch_is_held_by_one(ledger: Ledger) -> None:
    accept(ledger, "ab", "cd", "ef")
    assert claimed(ledger, 2) == ["ab", "cd"]
    assert claimed(ledger, 2) == ["ef"]
    assert claimed(ledger, 2) == []


def test_many_who_claim_at_once_never_get_the_same(ledger: Ledger) -> None:
    accept(ledger, *(chr(256 + i) for i in range(60)))

    def work(_: int) -> list[str]:
        mine: list[str] = []
        while batches := ledger.claim(2, LEASE_S):
            mine += [ids(batch) for batch in batches if ledger.finish(batch, outcomes(batch))]
        return mine

    with ThreadPoolExecutor(4) as threads:
        done = [each for mine in threads.map(work, range(4)) for each in mine]
    assert sorted(done) == [chr(256 + i) for i in range(60)]


def test_a_stale_lease_is_reclaimed_and_its_old_holder_records_nothing(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "ab")
    (old,) = ledger.claim(1, LEASE_S)
    clock.now += LEASE_S - 1
    assert claimed(ledger) == []
    clock.now += 1
    (new,) = ledger.claim(1, LEASE_S)
    assert ids(new) == "ab"

    assert not ledger.renew(old, LEASE_S)
    assert not ledger.finish(old, outcomes(old))
    ledger.release(old, retry_after_s=0, waiting_on="something")
    assert ledger.job(job.id).state is JobState.RUNNING
    assert claimed(ledger) == []

    assert ledger.finish(new, outcomes(new))
    assert not ledger.finish(new, outcomes(new))
    assert ledger.job(job.id).indexed == 2


def test_a_renewed_lease_holds(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a")
    (batch,) = ledger.claim(1, LEASE_S)
    for _ in range(3):
        clock.now += LEASE_S - 1
        assert ledger.renew(batch, LEASE_S)
    assert claimed(ledger) == []


def test_a_start_takes_over_what_the_last_process_left(ledger: Ledger, url: str, clock: Clock) -> None:
    job = accept(ledger, "ab")
    half, _ = ledger.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="hash")
    ledger.append(half.id, documents("x"))
    (held,) = ledger.claim(1, LEASE_S)

    after = Ledger(url, clock=clock)
    assert after.open_job("flags", JobKind.DOCUMENTS, idempotency_key="key", body_hash="hash")[1]
    (batch,) = after.claim(10, LEASE_S)
    assert ids(batch) == "ab"
    assert not after.finish(held, outcomes(held))
    assert after.finish(batch, outcomes(batch))
    assert after.job(job.id).state is JobState.SUCCEEDED
    after.close()


def test_writes_of_one_document_keep_their_order(ledger: Ledger) -> None:
    """Promise 4: whoever works on the earlier batch, or no one, a later one with the same document waits."""
    accept(ledger, "ab", "bc")
    accept(ledger, "b", kind=JobKind.DELETE)
    accept(ledger, "d")
    first, free = ledger.claim(10, LEASE_S)
    assert (ids(first), ids(free)) == ("ab", "d")
    assert claimed(ledger) == []
    ledger.release(first, retry_after_s=100, waiting_on="encoder")
    assert claimed(ledger) == [], "it waits, and so do those behind it"


def test_a_batch_waits_only_for_documents_that_are_left(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "ab")
    accept(ledger, "a")
    accept(ledger, "b")
    (first,) = ledger.claim(10, LEASE_S)
    ledger.finish(first, outcomes(first)[:1], retry_after_s=5)
    assert claimed(ledger) == ["a"]
    clock.now += 5
    (rest,) = ledger.claim(10, LEASE_S)
    assert ids(rest) == "b"
    ledger.finish(rest, outcomes(rest))
    assert claimed(ledger) == ["b"]


def test_the_order_is_that_of_accepting_not_of_opening(ledger: Ledger) -> None:
    slow, _ = ledger.open_job("flags", JobKind.DOCUMENTS)
    ledger.append(slow.id, documents("a"))
    quick = accept(ledger, "a")
    ledger.commit_job(slow.id)
    (first,) = ledger.claim(10, LEASE_S)
    assert first.job_id == quick.id
    ledger.finish(first, outcomes(first))
    (second,) = ledger.claim(10, LEASE_S)
    assert second.job_id == slow.id


def test_other_collections_do_not_wait(ledger: Ledger) -> None:
    ledger.create_collection(collection("other"))
    accept(ledger, "a")
    accept(ledger, "a", name="other")
    assert claimed(ledger) == ["a", "a"]


def test_a_batch_is_claimed_when_it_is_due(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "a")
    assert ledger.due_at() is None  # it is due already
    (batch,) = ledger.claim(1, LEASE_S)
    ledger.release(batch, retry_after_s=5, waiting_on="the encoder")
    assert ledger.due_at() == clock.now + 5
    waiting = ledger.job(job.id)
    assert (waiting.state, waiting.waiting_on) == (JobState.WAITING, "the encoder")
    assert claimed(ledger) == []
    clock.now += 5
    (batch,) = ledger.claim(1, LEASE_S)
    assert (batch.releases, batch.attempts) == (1, 0)
    ledger.finish(batch, outcomes(batch))
    done = ledger.job(job.id)
    assert (done.state, done.waiting_on) == (JobState.SUCCEEDED, None)
    assert ledger.due_at() is None


def test_a_collection_that_cannot_be_written_is_held_up_as_a_whole(ledger: Ledger, clock: Clock) -> None:
    ledger.create_collection(collection("other"))
    accept(ledger, "a", "b", "c", "d")
    accept(ledger, "x", kind=JobKind.DELETE)
    first, held = ledger.claim(2, LEASE_S)
    ledger.release(first, retry_after_s=5, waiting_on="a model", whole_collection=True)
    accept(ledger, "e", name="other")
    assert claimed(ledger) == ["x", "e"], "deleting needs no model, and other collections do not wait"
    assert ledger.renew(held, LEASE_S)
    clock.now += 5
    assert claimed(ledger) == ["a", "c", "d"]


def test_giving_back_at_a_stop_is_no_wait(ledger: Ledger) -> None:
    job = accept(ledger, "a")
    (batch,) = ledger.claim(1, LEASE_S)
    ledger.release(batch, retry_after_s=0, waiting_on=None)
    assert ledger.job(job.id).state is JobState.RUNNING
    (batch,) = ledger.claim(1, LEASE_S)
    assert (batch.releases, batch.attempts) == (0, 0)


# --- outcomes


def test_counts_failures_and_results(ledger: Ledger) -> None:
    job = accept(ledger, "abc", "d")
    first, second = ledger.claim(10, LEASE_S)
    kept, skipped, bad = outcomes(first)
    ledger.finish(
        first,
        [
            kept,
            Outcome(skipped.position, "b", Status.SKIPPED),
            Outcome(bad.position, "c", Status.FAILED, "invalid_input", "image is broken"),
        ],
    )
    half = ledger.job(job.id)
    assert (half.state, half.accepted, half.indexed, half.skipped, half.failed) == (JobState.RUNNING, 4, 1, 1, 1)
    assert ledger.pending_documents() == 1
    ledger.finish(second, outcomes(second))
    assert ledger.job(job.id).state is JobState.SUCCEEDED_WITH_FAILURES
    assert ledger.failures(job.id) == [Failure(job.id, 2, "c", "invalid_input", "image is broken")]
    assert [(each.position, each.status, each.code) for each in ledger.results(job.id)] == [
        (0, Status.INDEXED, None),
        (1, Status.SKIPPED, None),
        (2, Status.FAILED, "invalid_input"),
        (3, Status.INDEXED, None),
    ]
    assert claimed(ledger) == []


def test_a_job_of_which_nothing_worked_has_failed(ledger: Ledger) -> None:
    job = accept(ledger, "ab")
    (batch,) = ledger.claim(1, LEASE_S)
    ledger.finish(batch, outcomes(batch, Status.FAILED))
    assert ledger.job(job.id).state is JobState.FAILED


def test_what_has_no_outcome_is_tried_again(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "abc")
    (batch,) = ledger.claim(1, LEASE_S)
    ledger.finish(batch, outcomes(batch)[1:2], retry_after_s=3, waiting_on="example.org")
    assert ledger.job(job.id).waiting_on == "example.org"
    clock.now += 3
    (rest,) = ledger.claim(1, LEASE_S)
    assert (ids(rest), rest.attempts) == ("ac", 1)
    ledger.finish(rest, outcomes(rest))
    assert [each.document_id for each in ledger.results(job.id)] == ["a", "b", "c"]
    assert ledger.job(job.id).indexed == 3


def test_failures_come_in_pages(ledger: Ledger) -> None:
    job = accept(ledger, "ab", "cd")
    for batch in reversed(ledger.claim(10, LEASE_S)):
        ledger.finish(batch, outcomes(batch, Status.FAILED))
    assert [each.document_id for each in ledger.failures(job.id, limit=3)] == ["a", "b", "c"]
    assert [each.document_id for each in ledger.failures(job.id, limit=3, offset=3)] == ["d"]


def test_jobs_are_listed_newest_first(ledger: Ledger, clock: Clock) -> None:
    ledger.create_collection(collection("other"))
    made = []
    for name in ("flags", "other", "flags"):
        clock.now += 1
        made.append(accept(ledger, "a", name=name))
    assert [job.id for job in ledger.jobs()] == [job.id for job in reversed(made)]
    assert [job.id for job in ledger.jobs(collection="flags")] == [made[2].id, made[0].id]
    assert [job.id for job in ledger.jobs(limit=1, offset=1)] == [made[1].id]
    assert ledger.jobs(states=[JobState.SUCCEEDED]) == []
    assert len(ledger.jobs(states=[JobState.QUEUED, JobState.RUNNING])) == 3


# --- the database


def test_a_commit_is_on_disk(ledger: Ledger) -> None:
    with ledger._engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 is FULL


def test_a_database_that_does_not_answer_is_a_dependency_that_is_away(ledger: Ledger) -> None:
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone")
    with pytest.raises(DependencyUnavailable):
        ledger.jobs()


async def test_call_runs_off_the_event_loop(ledger: Ledger) -> None:
    assert await ledger.call(ledger.jobs, limit=5) == []
    with pytest.raises(NotFound):
        await ledger.call(ledger.job, "nothing")


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_counts_add_up_whatever_happens(seed: int) -> None:
    """Random accepting, claiming, partial finishing, releasing and dying: nothing is lost, nothing counted twice, and each
    document's writes are settled in the order they were accepted."""
    chance = random.Random(seed)
    clock = Clock()
    ledger = Ledger("sqlite://", clock=clock)  # in memory: every commit to a disk would wait for it
    ledger.create_collection(collection())
    order: dict[str, list[tuple[str, int]]] = {}  # document id -> its writes as accepted
    settled: dict[str, list[tuple[str, int]]] = {}
    jobs: list[str] = []
    held: list[Batch] = []

    def write(job: Job, batches: list[list[str]]) -> None:
        position = 0
        for batch in batches:
            for each in batch:
                order.setdefault(each, []).append((job.id, position))
                position += 1

    def finish(batch: Batch, some: list[Outcome]) -> None:
        if ledger.finish(batch, some, retry_after_s=chance.choice([0.0, 5.0])):
            for each in sorted(some, key=lambda one: one.position):
                settled.setdefault(each.document_id, []).append((batch.job_id, each.position))

    def act() -> None:
        held.extend(ledger.claim(chance.randint(1, 3), LEASE_S))
        if not held:
            return
        batch = held.pop(chance.randrange(len(held)))
        left = outcomes(batch, chance.choice(list(Status)))
        match chance.randint(0, 3):
            case 0:
                finish(batch, left)
            case 1:
                finish(batch, chance.sample(left, chance.randint(0, len(left))))
            case 2:
                ledger.release(batch, retry_after_s=chance.choice([0.0, 5.0]), waiting_on=chance.choice([None, "x"]))
            case 3:  # its worker hangs; it may come back after the lease is over, and even later
                clock.now += chance.choice([0.0, LEASE_S])
                held.append(batch)

    for _ in range(25):
        if chance.random() < 0.4:
            batches = [chance.sample("abcdef", chance.randint(1, 4)) for _ in range(chance.randint(1, 3))]
            job = accept(ledger, *("".join(batch) for batch in batches))
            write(job, batches)
            jobs.append(job.id)
        act()
        clock.now += chance.choice([0.0, 1.0, 10.0])
        check_counts(ledger, jobs)
    clock.now += LEASE_S  # all the workers are dead, and another does what is left
    while ledger.pending_documents():
        batches_left = ledger.claim(100, LEASE_S)
        assert batches_left, "there is work, and nobody could ever have it"
        for batch in batches_left:
            finish(batch, outcomes(batch))
    check_counts(ledger, jobs)
    assert all(ledger.job(job).state.finished for job in jobs)
    assert settled == order
    ledger.close()


def check_counts(ledger: Ledger, jobs: list[str]) -> None:
    pending = 0
    for each in jobs:
        job = ledger.job(each)
        results = ledger.results(each)
        by_status = [sum(result.status is status for result in results) for status in Status]
        assert [job.indexed, job.skipped, job.failed] == by_status
        assert len({result.position for result in results}) == len(results)
        assert len(ledger.failures(each, limit=1_000)) == job.failed
        assert job.state.finished == (len(results) == job.accepted)
        pending += job.accepted - len(results)
    assert ledger.pending_documents() == pending


def test_a_ledger_of_another_version_is_refused_not_misread(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(f"sqlite:///{path}").close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Conflict, match="has schema 99, this version of ret2 reads 1"):
        Ledger(f"sqlite:///{path}")
