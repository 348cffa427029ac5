"""A worker that stood still for longer than its lease writes over what was accepted later: the last accepted write stands in the end."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_steps import LEASE_S, Clock, accept, claim, outcomes, settle, settle_all

from indexer.domain.documents import Document, ImageRef
from indexer.domain.jobs import Batch, JobKind, JobState, Status
from indexer.ledger import repairs as module
from indexer.ledger.ledger import Ledger
from model.errors import Conflict


def frozen(ledger: Ledger, clock: Clock, ids: str = "a", kind: JobKind = JobKind.DOCUMENTS) -> Batch:
    """Held by a worker that stopped right before its write, until another had it and wrote."""
    accept(ledger, ids, kind=kind)
    old = claim(ledger)
    assert ledger.batches.renew.blocking([old], LEASE_S, writing=True)
    clock.now += LEASE_S
    settle_all(ledger)
    return old


def write(ledger: Ledger, key: str, text: str, image: ImageRef | None = None) -> str:
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    ledger.submissions.append.blocking(job.id, [(0, Document(key, text, image))])
    return ledger.submissions.commit.blocking(job.id).id


def repairs(ledger: Ledger) -> list[str]:
    return [job.id for job in ledger.jobs.newest.blocking() if job.kind is JobKind.REPAIR]


def test_what_stands_is_written_again_when_the_holder_is_back(ledger: Ledger, clock: Clock) -> None:
    old = frozen(ledger, clock, "abc")
    write(ledger, "a", "later")
    accept(ledger, "b", kind=JobKind.DELETE)
    settle_all(ledger)
    assert repairs(ledger) == []
    assert not settle(ledger, old)
    ledger.batches.release.blocking([old], retry_after_s=0, waiting_on=None)
    (job,) = repairs(ledger)
    assert ledger.jobs.find.blocking(job).state is JobState.QUEUED
    again = claim(ledger)
    assert ledger.repairs.latest_writes.blocking(again) == {
        JobKind.DOCUMENTS: [(0, Document("a", "later")), (2, Document("c"))],
        JobKind.DELETE: [(1, Document("b"))],
    }
    assert settle(ledger, again)
    done = ledger.jobs.find.blocking(job)
    assert (done.state, done.accepted, done.indexed) == (JobState.SUCCEEDED, 3, 3)
    # The store may carry out that worker's writes later still.
    with ledger.database.read() as connection:
        holders = connection.exec_driver_sql("SELECT DISTINCT holder FROM doubts").scalars().all()
    assert [holder.partition(":")[0] for holder in holders] == ["store"]


def update(ledger: Ledger, key: str, **metadata: int) -> Document:
    patch = Document(key, metadata={"metadata": metadata})
    job, _ = ledger.submissions.open.blocking("flags", JobKind.UPDATE)
    ledger.submissions.append.blocking(job.id, [(0, patch)])
    ledger.submissions.commit.blocking(job.id)
    return patch


def test_updates_are_written_again_after_the_write_that_they_follow(ledger: Ledger, clock: Clock) -> None:
    old = frozen(ledger, clock, "abcd")
    first = update(ledger, "a", price=1)
    settle_all(ledger)
    second = update(ledger, "a", price=2)
    write(ledger, "b", "later")
    settle_all(ledger)
    third = update(ledger, "b", price=3)
    settle_all(ledger)
    update(ledger, "c", price=4)
    accept(ledger, "c", kind=JobKind.DELETE)
    settle_all(ledger)
    assert not settle(ledger, old)
    assert ledger.repairs.latest_writes.blocking(claim(ledger)) == {
        JobKind.DOCUMENTS: [(0, Document("a")), (1, Document("b", "later")), (3, Document("d"))],
        JobKind.UPDATE: [(0, first), (0, second), (1, third)],
        JobKind.DELETE: [(2, Document("c"))],
    }


def test_an_update_of_which_alone_is_known_is_applied_again(ledger: Ledger, clock: Clock) -> None:
    update(ledger, "a", price=1)
    old = claim(ledger)
    assert ledger.batches.renew.blocking([old], LEASE_S, writing=True)
    clock.now += LEASE_S
    settle_all(ledger)
    later = update(ledger, "a", price=2)
    settle_all(ledger)
    assert not settle(ledger, old)
    assert ledger.repairs.latest_writes.blocking(claim(ledger)) == {JobKind.UPDATE: [(0, old.items[0][1]), (0, later)]}


def test_it_comes_after_what_is_in_hand_and_before_what_follows(ledger: Ledger, clock: Clock) -> None:
    old = frozen(ledger, clock)
    write(ledger, "a", "in hand")
    in_hand = claim(ledger)
    ledger.batches.release.blocking([old], retry_after_s=0, waiting_on=None)
    write(ledger, "a", "follows")
    assert ledger.batches.claim.blocking(10, LEASE_S) == []
    assert settle(ledger, in_hand)
    again = claim(ledger)
    assert ledger.repairs.latest_writes.blocking(again) == {JobKind.DOCUMENTS: [(0, Document("a", "in hand"))]}
    assert settle(ledger, again)
    assert claim(ledger).items == ((0, Document("a", "follows")),)


def test_a_later_write_that_failed_does_not_stand_and_can_be_tried_again(ledger: Ledger, clock: Clock) -> None:
    old = frozen(ledger, clock)
    write(ledger, "a", "good")
    settle_all(ledger)
    failed = write(ledger, "a", "bad")
    settle_all(ledger, Status.FAILED)
    ledger.batches.release.blocking([old], retry_after_s=0, waiting_on=None)
    again = claim(ledger)
    assert ledger.repairs.latest_writes.blocking(again) == {JobKind.DOCUMENTS: [(0, Document("a", "good"))]}
    assert settle(ledger, again, Status.FAILED)
    with pytest.raises(Conflict, match="is a repair: post the documents again"):
        ledger.retries.start.blocking(repairs(ledger)[0])
    assert ledger.retries.start.blocking(failed)[1]


def test_whose_lease_was_lost_before_it_wrote_has_nothing_repaired(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a")
    old = claim(ledger)
    clock.now += LEASE_S
    settle_all(ledger)
    assert not settle(ledger, old)
    assert repairs(ledger) == []


def test_a_job_that_was_cancelled_under_its_holder(ledger: Ledger, clock: Clock) -> None:
    job = accept(ledger, "a")
    old = claim(ledger)
    assert ledger.batches.renew.blocking([old], LEASE_S, writing=True)
    clock.now += LEASE_S
    assert ledger.jobs.cancel.blocking(job.id).state is JobState.CANCELLED
    write(ledger, "a", "later")
    settle_all(ledger)
    ledger.batches.release.blocking([old], retry_after_s=0, waiting_on=None)
    assert ledger.repairs.latest_writes.blocking(claim(ledger)) == {JobKind.DOCUMENTS: [(0, Document("a", "later"))]}


def test_images_of_what_may_be_repeated_are_in_use_until_the_holder_is_forgotten(ledger: Ledger, clock: Clock) -> None:
    frozen(ledger, clock)
    write(ledger, "a", "later", ImageRef("d" * 64))
    settle_all(ledger)
    assert ledger.housekeeping.images_in_doubt.blocking(0, 10)[0] == {"d" * 64}
    ledger.housekeeping.tidy.blocking(3_600.0)
    assert ledger.housekeeping.images_in_doubt.blocking(0, 10)[0]
    clock.now += 3_601.0
    ledger.housekeeping.tidy.blocking(3_600.0)
    assert ledger.housekeeping.images_in_doubt.blocking(0, 10) == (set(), None)


# --- whatever happens


def test_the_last_accepted_write_stands_whoever_stands_still(
    empty: Callable[[], Ledger], clock: Clock, url: str
) -> None:
    @settings(max_examples=40 if url.startswith("sqlite") else 6)
    @given(seed=st.integers(0, 2**32))
    def run(seed: int) -> None:
        _Story(empty(), clock, random.Random(seed)).run()

    run()


class _Story:
    """Workers that stop right before their writes, for any time, and go on; a dictionary is the store."""

    def __init__(self, ledger: Ledger, clock: Clock, chance: random.Random) -> None:
        self.ledger, self.clock, self.chance = ledger, clock, chance
        self.expected: dict[str, str] = {}
        self.stored: dict[str, str] = {}
        self.before_writing: list[tuple[Batch, dict[str, str | None]]] = []
        self.before_recording: list[Batch] = []

    def run(self) -> None:
        for number in range(40):
            if self.chance.random() < 0.4:
                self.accept(number)
            self.claim()
            self.go_on()
            self.clock.now += self.chance.choice([0.0, 0.0, LEASE_S])
        self.clock.now += LEASE_S  # whoever is at it is late from here on
        while self.before_writing or self.before_recording or self.ledger.jobs.pending_documents.blocking():
            self.go_on()
            if self.chance.random() < 0.5:
                self.claim()
        assert self.stored == self.expected

    def accept(self, number: int) -> None:
        keys = self.chance.sample("abcd", self.chance.randint(1, 3))
        deletes = self.chance.random() < 0.3
        job, _ = self.ledger.submissions.open.blocking("flags", JobKind.DELETE if deletes else JobKind.DOCUMENTS)
        self.ledger.submissions.append.blocking(
            job.id, [(n, Document(key, None if deletes else str(number))) for n, key in enumerate(keys)]
        )
        self.ledger.submissions.commit.blocking(job.id)
        for key in keys:
            self.expected.pop(key, None) if deletes else self.expected.update({key: str(number)})

    def claim(self) -> None:
        """Up to the look at the lease: what it is about to write is decided."""
        for batch in self.ledger.batches.claim.blocking(2, LEASE_S, alone=True):
            parts = (
                self.ledger.repairs.latest_writes.blocking(batch)
                if batch.kind is JobKind.REPAIR
                else {batch.kind: batch.items}
            )
            assert self.ledger.batches.renew.blocking([batch], LEASE_S, writing=True)
            known = [each for kind, items in parts.items() if kind is not JobKind.REPAIR for each in items]
            self.before_writing.append((batch, {document.id: document.text for _, document in known}))

    def go_on(self) -> None:
        if self.before_writing and self.chance.random() < 0.7:
            batch, written = self.before_writing.pop(self.chance.randrange(len(self.before_writing)))
            for key, text in written.items():
                self.stored.pop(key, None) if text is None else self.stored.update({key: text})
            self.before_recording.append(batch)
        if self.before_recording and self.chance.random() < 0.7:
            batch = self.before_recording.pop(self.chance.randrange(len(self.before_recording)))
            if self.chance.random() < 0.2:
                self.ledger.batches.release.blocking([batch], retry_after_s=0.0, waiting_on=None)
            else:
                self.ledger.batches.finish.blocking([(batch, outcomes(batch))])


# --- a write that the store held up on its way


def unanswered(ledger: Ledger, batch: Batch) -> None:
    """The store did not answer its write, and the batch is given back."""
    assert ledger.batches.renew.blocking([batch], LEASE_S, writing=True)
    ledger.batches.release.blocking([batch], retry_after_s=0, waiting_on="the store", unanswered=True)


def test_what_stands_is_written_again_once_the_store_writes_no_more(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "ab")
    unanswered(ledger, claim(ledger))
    settle_all(ledger)
    accept(ledger, "b", kind=JobKind.DELETE)
    settle_all(ledger)
    clock.now += 119
    assert ledger.repairs.repair_late_writes.blocking(120) == 0
    assert repairs(ledger) == []
    clock.now += 1
    assert ledger.repairs.repair_late_writes.blocking(120) == 2
    assert ledger.repairs.repair_late_writes.blocking(120) == 0
    again = claim(ledger)
    assert ledger.repairs.latest_writes.blocking(again) == {
        JobKind.DOCUMENTS: [(0, Document("a"))],
        JobKind.DELETE: [(1, Document("b"))],
    }
    assert settle(ledger, again)
    with ledger.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM doubts").scalar_one() == 0


def test_a_batch_that_is_given_back_again_is_in_doubt_since_the_last_time(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a")
    unanswered(ledger, claim(ledger))
    clock.now += 100
    unanswered(ledger, claim(ledger))
    settle_all(ledger)
    clock.now += 100
    assert ledger.repairs.repair_late_writes.blocking(120) == 0
    clock.now += 20
    assert ledger.repairs.repair_late_writes.blocking(120) == 1
    assert len(repairs(ledger)) == 1


def test_of_a_batch_that_was_settled_in_part_the_late_write_is_repaired_too(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "ab")
    batch = claim(ledger)
    assert ledger.batches.renew.blocking([batch], LEASE_S, writing=True)
    assert ledger.batches.finish.blocking([(batch, outcomes(batch, Status.INDEXED)[:1])], unanswered=True)
    settle_all(ledger)
    clock.now += 120
    assert ledger.repairs.repair_late_writes.blocking(120) == 2


@pytest.mark.parametrize("reports", [True, False])
def test_what_a_worker_that_died_had_sent_is_repaired(ledger: Ledger, clock: Clock, reports: bool) -> None:
    """The doubt about the worker stays as long as it may report back."""
    old = frozen(ledger, clock)
    write(ledger, "a", "later")
    settle_all(ledger)
    clock.now += 120
    assert ledger.repairs.repair_late_writes.blocking(120) == 1
    assert ledger.repairs.repair_late_writes.blocking(120) == 0
    settle_all(ledger)
    if reports:
        assert not settle(ledger, old)
        again = claim(ledger)
        assert ledger.repairs.latest_writes.blocking(again) == {JobKind.DOCUMENTS: [(0, Document("a", "later"))]}
        settle(ledger, again)
    assert len(repairs(ledger)) == 1 + reports


def test_a_repair_writes_what_came_after_its_own_doubt(ledger: Ledger, clock: Clock) -> None:
    """A younger doubt knows of an update alone, the older one of the document that it changed too."""
    old = frozen(ledger, clock)
    later = update(ledger, "a", n=1)
    assert ledger.batches.renew.blocking([claim(ledger)], LEASE_S, writing=True)
    clock.now += LEASE_S
    settle_all(ledger)
    assert not settle(ledger, old)
    assert ledger.repairs.latest_writes.blocking(claim(ledger)) == {
        JobKind.DOCUMENTS: [(0, Document("a"))],
        JobKind.UPDATE: [(0, later)],
    }


def test_what_was_not_sent_or_had_its_answer_is_not_repaired(ledger: Ledger, clock: Clock) -> None:
    accept(ledger, "a")
    ledger.batches.release.blocking([claim(ledger)], retry_after_s=0, waiting_on="the store", unanswered=True)
    batch = claim(ledger)
    assert ledger.batches.renew.blocking([batch], LEASE_S, writing=True)
    ledger.batches.release.blocking([batch], retry_after_s=0, waiting_on="the encoder")
    settle_all(ledger)
    clock.now += 1_000
    assert ledger.repairs.repair_late_writes.blocking(120) == 0


def test_many_late_writes_are_repaired_in_several_transactions(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DOUBTS_AT_A_TIME", 2)
    for ids in ("ab", "cd"):
        accept(ledger, ids)
        unanswered(ledger, claim(ledger))
        settle_all(ledger)
    clock.now += 120
    assert [ledger.repairs.repair_late_writes.blocking(120) for _ in range(3)] == [2, 2, 0]
