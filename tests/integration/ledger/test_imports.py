"""Imports: planned and read step by step by any number of processes, each record once, in order with the writes of others."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ledger_steps import LEASE_S, Clock, accept, claim, claimed, collection, ids, outcomes, results, settle, settle_all

from indexer.domain.documents import Document, ImageRef
from indexer.domain.jobs import Job, JobKind, JobState, Outcome, Status
from indexer.ledger.imports import Step
from indexer.ledger.ledger import Ledger
from model.errors import Conflict, NotFound

OpenLedger = Callable[..., Ledger]
SOURCE = {"uri": "/exports", "format": "jsonl"}
AHEAD = 1_000


def unit(first: int, count: int, name: str = "a.jsonl") -> dict[str, Any]:
    return {"uri": f"/exports/{name}", "first": first, "span": {"count": count}}


def next_step(ledger: Ledger, ahead: int = AHEAD) -> Step:
    step = ledger.imports.claim.blocking(LEASE_S, ahead)
    assert step is not None
    return step


def planned(ledger: Ledger, *counts: int, **options: Any) -> Job:
    job = ledger.imports.accept.blocking("flags", SOURCE, **options)
    step = next_step(ledger)
    assert (step.job_id, step.unit, step.source) == (job.id, None, SOURCE)
    units, first = [], 0
    for number, count in enumerate(counts):
        units.append(unit(first, count, f"{number}.jsonl"))
        first += count
    assert ledger.imports.add_units.blocking(step, units, LEASE_S)
    step.read += first
    assert ledger.imports.end_plan.blocking(step)
    return ledger.jobs.find.blocking(job.id)


def read(ledger: Ledger, step: Step, *found: str, unreadable: Sequence[int] = ()) -> int | None:
    """The next records of a step: documents, and positions of what cannot be read."""
    first = (step.unit or {})["first"] + step.read
    bad = [Outcome(position, "", Status.FAILED, "invalid_input", "not JSON") for position in unreadable]
    free = iter(position for position in range(first, first + 100) if position not in unreadable)
    good = [(next(free), Document(each)) for each in found]
    waiting = ledger.imports.add_records.blocking(step, good, bad, LEASE_S)
    step.read += len(good) + len(bad)
    return waiting


def adds_up(job: Job) -> bool:
    return job.accepted == job.indexed + job.skipped + job.failed + job.cancelled


def test_from_acceptance_to_the_end(ledger: Ledger) -> None:
    job = ledger.imports.accept.blocking("flags", SOURCE)
    assert (job.kind, job.state, job.accepted, job.growing) == (JobKind.IMPORT, JobState.QUEUED, 0, True)
    plan = next_step(ledger)
    assert ledger.imports.claim.blocking(LEASE_S, AHEAD) is None
    assert ledger.imports.add_units.blocking(plan, [unit(0, 3)], LEASE_S)
    plan.read += 3
    reading = next_step(ledger)
    assert (reading.unit, reading.read, reading.size) == (unit(0, 3), 0, 3)
    assert read(ledger, reading, "a", "b", unreadable=[2]) == 2
    settle_all(ledger)
    job = ledger.jobs.find.blocking(job.id)
    assert (job.state, job.accepted, job.indexed, job.failed, job.left) == (JobState.RUNNING, 3, 2, 1, 0)
    assert job.growing, "there may be more"
    assert ledger.imports.add_units.blocking(plan, [unit(3, 1, "b.jsonl")], LEASE_S)
    assert ledger.imports.end_plan.blocking(plan)
    assert ledger.jobs.find.blocking(job.id).unread == 1
    assert read(ledger, next_step(ledger), "d") == 1
    assert not ledger.imports.steps_remain.blocking()
    settle_all(ledger)
    job = ledger.jobs.find.blocking(job.id)
    assert (job.state, job.accepted, job.indexed, job.failed) == (JobState.SUCCEEDED_WITH_FAILURES, 4, 3, 1)
    (failure,) = ledger.jobs.failures.blocking(job.id)
    assert (failure.position, failure.file, failure.detail) == (2, "a.jsonl", "not JSON")
    assert ledger.jobs.pending_documents.blocking() == 0


def test_what_cannot_be_read_is_listed_whatever_its_id_is(ledger: Ledger) -> None:
    job = planned(ledger, 2)
    bad = Outcome(1, "zero \x00 half \ud800", Status.FAILED, "invalid_input", "id is 'zero \x00 half \ud800'")
    assert ledger.imports.add_records.blocking(next_step(ledger), [(0, Document("a"))], [bad], LEASE_S) == 1
    (listed,) = ledger.jobs.failures.blocking(job.id)
    assert listed.document_id == "zero \ufffd half ?"


def test_nothing_is_read_while_a_suspect_is_tried_alone(ledger: Ledger, clock: Clock) -> None:
    """Were it the unit that kills the process, the innocent batch would be blamed each time."""
    planned(ledger, 1)
    accept(ledger, "a")
    claim(ledger)
    clock.now += LEASE_S + 1
    suspect = claim(ledger)  # its worker never said what became of it
    assert suspect.crashes == 1
    assert ledger.imports.claim.blocking(LEASE_S, AHEAD) is None
    ledger.batches.release.blocking([suspect], retry_after_s=0, waiting_on=None)
    assert ledger.imports.claim.blocking(LEASE_S, AHEAD) is None
    suspect = claim(ledger)
    ledger.batches.release.blocking([suspect], retry_after_s=5, waiting_on="a model")
    waits = next_step(ledger)
    ledger.imports.release.blocking(waits, retry_after_s=0, waiting_on=None)
    clock.now += 5
    settle(ledger, claim(ledger))
    assert next_step(ledger).size == 1


def test_a_unit_goes_on_where_its_reader_left_it(open_ledger: OpenLedger, ledger: Ledger, clock: Clock) -> None:
    planned(ledger, 4)
    mine = next_step(ledger)
    assert read(ledger, mine, "a", "b") == 2
    other = open_ledger()
    assert other.imports.claim.blocking(LEASE_S, AHEAD) is None
    clock.now += LEASE_S + 1
    theirs = next_step(other)
    assert (theirs.read, theirs.crashes) == (2, 1)
    assert not ledger.imports.renew.blocking(mine, LEASE_S)
    assert read(ledger, mine, "x", "y") is None
    ledger.imports.release.blocking(mine, retry_after_s=100.0, waiting_on="nobody")
    assert read(other, theirs, "c") == 3
    other.imports.release.blocking(theirs, retry_after_s=0.0, waiting_on=None)
    again = next_step(ledger)
    assert (again.read, again.crashes) == (3, 0), "what went on is no more suspect"
    assert read(ledger, again, "d") == 4
    assert claimed(ledger) == ["ab", "c", "d"]


def test_what_a_single_process_left_is_taken_back_at_once(open_ledger: OpenLedger, url: str, clock: Clock) -> None:
    ledger = open_ledger()
    ledger.collections.create.blocking(collection())
    planned(ledger, 2)
    next_step(ledger)
    step = next_step(open_ledger(exclusive=True))
    assert (step.read, step.crashes) == (0, 1)


def test_waiting_and_trying_again(ledger: Ledger, clock: Clock) -> None:
    job = planned(ledger, 2)
    step = next_step(ledger)
    ledger.imports.release.blocking(step, retry_after_s=10.0, waiting_on="s3://bucket does not answer")
    waits = ledger.jobs.find.blocking(job.id)
    assert (waits.state, waits.waiting_on) == (JobState.WAITING, "s3://bucket does not answer")
    assert ledger.imports.claim.blocking(LEASE_S, AHEAD) is None
    assert ledger.imports.steps_remain.blocking()
    clock.now += 10
    step = next_step(ledger)
    assert (step.releases, step.crashes) == (1, 0)
    ledger.imports.release.blocking(step, retry_after_s=0.0, waiting_on="RuntimeError", crashed=True)
    step = next_step(ledger)
    assert (step.releases, step.crashes) == (1, 1)
    assert read(ledger, step, "a") == 1
    assert ledger.jobs.find.blocking(job.id).state is JobState.RUNNING


def test_what_is_read_and_not_done_is_bounded(ledger: Ledger) -> None:
    planned(ledger, 2, 2, 2)
    read(ledger, next_step(ledger, ahead=2), "a", "b")
    read(ledger, next_step(ledger, ahead=2), "c", "d")
    assert ledger.imports.claim.blocking(LEASE_S, 2) is None
    settle(ledger, ledger.batches.claim.blocking(1, LEASE_S)[0])
    assert next_step(ledger, ahead=2).unit == unit(4, 2, "2.jsonl")


def test_documents_are_accepted_as_they_are_read(ledger: Ledger) -> None:
    """What others posted before that comes first, what they post after it comes later, whatever the job's own age."""
    planned(ledger, 2)
    accept(ledger, "a")
    posted_before = claim(ledger)
    read(ledger, next_step(ledger), "a", "b")
    accept(ledger, "b")
    assert claimed(ledger) == [], "the import waits for what is in hand, and what was posted after waits for the import"
    settle(ledger, posted_before)
    imported = claim(ledger)
    assert ids(imported) == "ab"
    assert claimed(ledger) == []
    settle(ledger, imported)
    assert claimed(ledger) == ["b"]


def test_a_plan_that_fails_is_one_failure(ledger: Ledger) -> None:
    job = ledger.imports.accept.blocking("flags", SOURCE)
    assert ledger.imports.end_plan.blocking(next_step(ledger), ("not_found", "it is gone"))
    job = ledger.jobs.find.blocking(job.id)
    assert (job.state, job.accepted, job.failed) == (JobState.FAILED, 1, 1)
    (failure,) = ledger.jobs.failures.blocking(job.id)
    assert (failure.code, failure.detail, failure.file) == ("not_found", "it is gone", None)
    with pytest.raises(Conflict, match="nothing to try again"):
        ledger.retries.start.blocking(job.id)


@pytest.mark.parametrize("stage", ["queued", "planning", "planned", "reading", "waiting", "nothing"])
def test_cancelling_adds_up_at_every_stage(ledger: Ledger, stage: str, clock: Clock) -> None:
    if stage in ("queued", "planning"):
        job = ledger.imports.accept.blocking("flags", SOURCE)
        step = next_step(ledger) if stage == "planning" else None
        if step is not None:
            ledger.imports.add_units.blocking(step, [unit(0, 3)], LEASE_S)
    else:
        job = planned(ledger, 3, 2)
        step = next_step(ledger) if stage in ("reading", "waiting") else None
        if step is not None:
            read(ledger, step, "a")
        if step is not None and stage == "waiting":
            ledger.imports.release.blocking(step, retry_after_s=1_000.0, waiting_on="a store")
            step = None
    if stage == "nothing":
        while (reading := ledger.imports.claim.blocking(LEASE_S, AHEAD)) is not None:
            read(ledger, reading, *"abc"[: reading.size])
        settle_all(ledger)
        assert ledger.jobs.cancel.blocking(job.id).state is JobState.SUCCEEDED
        return
    cancelled = ledger.jobs.cancel.blocking(job.id)
    if step is not None:
        assert not cancelled.state.finished
        if stage == "planning":
            assert not ledger.imports.add_units.blocking(step, [unit(3, 3)], LEASE_S)
        else:
            assert read(ledger, step, "b") is None
        ledger.imports.release.blocking(step, retry_after_s=0.0, waiting_on=None)
    job = ledger.jobs.find.blocking(job.id)
    assert job.state is JobState.CANCELLED
    assert adds_up(job)
    assert (job.growing, job.unread) == (False, 0)
    assert ledger.imports.claim.blocking(LEASE_S, AHEAD) is None
    assert claimed(ledger) == []


def test_a_cancelled_import_whose_reader_died_is_tidied_up(ledger: Ledger, clock: Clock) -> None:
    job = planned(ledger, 3)
    next_step(ledger)
    ledger.jobs.cancel.blocking(job.id)
    assert not ledger.jobs.find.blocking(job.id).state.finished
    clock.now += LEASE_S + 1
    while ledger.housekeeping.tidy.blocking(retention_s=1e9):
        pass
    assert (ledger.jobs.find.blocking(job.id).state, ledger.jobs.find.blocking(job.id).cancelled) == (
        JobState.CANCELLED,
        3,
    )


def test_a_retry_reads_what_was_unreadable_and_takes_what_is_kept(ledger: Ledger) -> None:
    job = planned(ledger, 5)
    read(ledger, next_step(ledger), "a", "b", "c", unreadable=[1, 3])
    batch = claim(ledger)
    failed = [*outcomes(batch)[:2], *outcomes(batch, Status.FAILED)[2:]]
    assert ledger.batches.finish.blocking([(batch, failed)])
    retry, new = ledger.retries.start.blocking(job.id)
    assert new
    assert (retry.kind, retry.accepted, retry.unread, retry.retry_of) == (JobKind.IMPORT, 3, 2, job.id)
    assert claimed(ledger) == ["c"]
    step = next_step(ledger)
    assert (step.only, step.size, step.source) == ((1, 3), 2, SOURCE)
    assert ledger.imports.add_records.blocking(
        step, [(1, Document("x"))], [Outcome(3, "", Status.FAILED, "c", "still")], LEASE_S
    )
    assert ledger.retries.start.blocking(job.id) == (ledger.jobs.find.blocking(retry.id), False)
    (failure,) = ledger.jobs.failures.blocking(retry.id)
    assert (failure.position, failure.file) == (3, "0.jsonl")


def test_keys(ledger: Ledger) -> None:
    assert ledger.imports.find.blocking("flags", "once", "hash") is None
    job = ledger.imports.accept.blocking("flags", SOURCE, idempotency_key="once", body_hash="hash")
    assert ledger.imports.accept.blocking("flags", SOURCE, idempotency_key="once", body_hash="hash") == job
    assert ledger.imports.find.blocking("flags", "once", "hash") == job
    with pytest.raises(Conflict, match="another body"):
        ledger.imports.find.blocking("flags", "once", "other")
    with pytest.raises(Conflict, match="another body"):
        ledger.imports.accept.blocking("flags", SOURCE, idempotency_key="once", body_hash="other")
    with pytest.raises(NotFound):
        ledger.imports.accept.blocking("others", SOURCE)


def test_many_readers_read_each_record_once(open_ledger: OpenLedger, ledger: Ledger) -> None:
    job = planned(ledger, *[6] * 20)
    ledgers = [open_ledger() for _ in range(3)]

    def work(mine: Ledger) -> int:
        steps = 0
        while mine.imports.steps_remain.blocking():
            step = mine.imports.claim.blocking(LEASE_S, 10_000)
            if step is None:
                continue
            steps += 1
            while step.read < step.size:
                first = (step.unit or {})["first"] + step.read
                records = [(first + i, Document(str(first + i))) for i in range(2)]
                assert mine.imports.add_records.blocking(step, records, [], LEASE_S) is not None
                step.read += 2
        return steps

    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(work, ledgers)) == 20
    settle_all(ledger)
    done = ledger.jobs.find.blocking(job.id)
    assert (done.state, done.indexed, done.unread) == (JobState.SUCCEEDED, 120, 0)
    assert [result.position for result in results(ledger, job.id)] == list(range(120))


# --- upkeep


def test_one_process_of_all_has_the_turn(open_ledger: OpenLedger, ledger: Ledger, clock: Clock) -> None:
    other = open_ledger()
    assert [each.housekeeping.take_turn.blocking("sweep", 60.0) for each in (ledger, other)] == [False, False], (
        "it has only begun"
    )
    clock.now += 60
    assert [each.housekeeping.take_turn.blocking("sweep", 60.0) for each in (ledger, other)] == [True, False]
    clock.now += 59
    assert not other.housekeeping.take_turn.blocking("sweep", 60.0)
    clock.now += 1
    assert other.housekeeping.take_turn.blocking("sweep", 60.0)


def test_images_in_hand(ledger: Ledger) -> None:
    job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    for number in range(5):
        image = ImageRef(str(number) * 64) if number else ImageRef(url="https://host/a.png")
        ledger.submissions.append.blocking(
            job.id, [(number, Document(f"d{number}", image=image)), (100 + number, Document(f"t{number}"))]
        )
    assert everything(ledger.housekeeping.images_waiting.blocking) == {str(number) * 64 for number in range(1, 5)}, (
        "before it is accepted too"
    )
    ledger.submissions.commit.blocking(job.id)
    first, second = ledger.batches.claim.blocking(2, LEASE_S)[:2]
    settle(ledger, first)
    settle(ledger, second, Status.FAILED)
    assert everything(ledger.housekeeping.images_waiting.blocking) == {"2" * 64, "3" * 64, "4" * 64}
    assert everything(ledger.housekeeping.images_to_retry.blocking) == {"1" * 64}


def everything(page: Callable[[int, int], tuple[set[str], int | None]]) -> set[str]:
    found: set[str] = set()
    after: int | None = 0
    while after is not None:
        digests, after = page(after, 1)
        found |= digests
    return found
