"""Many at once, on both databases: threads and processes that claim, accept, cancel and die, and what holds whatever they do."""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_steps import LEASE_S, Clock, accept, check_counts, documents, ids, outcomes, settle, settle_all

from indexer.domain.jobs import Batch, Job, JobKind, JobState, Status
from indexer.ledger.ledger import Ledger
from model.errors import Conflict

OpenLedger = Callable[..., Ledger]
DOCUMENTS = 60


def work(ledger: Ledger, limit: int = 2) -> list[str]:
    """Claims and finishes until nothing is due; the documents of it."""
    mine: list[str] = []
    while batches := ledger.batches.claim.blocking(limit, LEASE_S):
        mine += [ids(batch) for batch in batches if settle(ledger, batch)]
    return mine


def work_elsewhere(url: str) -> list[str]:
    ledger = Ledger.open(url)
    try:
        return work(ledger)
    finally:
        ledger.close()


def test_threads_that_claim_at_once_never_get_the_same(ledger: Ledger) -> None:
    accept(ledger, *(chr(256 + i) for i in range(DOCUMENTS)))
    with ThreadPoolExecutor(4) as threads:
        done = [each for mine in threads.map(lambda _: work(ledger), range(4)) for each in mine]
    assert sorted(done) == [chr(256 + i) for i in range(DOCUMENTS)]


def test_processes_that_claim_at_once_never_get_the_same(ledger: Ledger, url: str) -> None:
    job = accept(ledger, *(chr(256 + i) for i in range(DOCUMENTS)))
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        done = [each for mine in processes.map(work_elsewhere, [url] * 2) for each in mine]
    assert sorted(done) == [chr(256 + i) for i in range(DOCUMENTS)]
    assert ledger.jobs.find.blocking(job.id).indexed == DOCUMENTS


def test_of_requests_with_one_key_at_once_one_makes_the_job(ledger: Ledger) -> None:
    def ask(_: int) -> str:
        try:
            job, new = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="key")
        except Conflict:
            return "being received"
        return job.id if new else "again"

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(16)))
    assert answers.count("being received") == 15


def test_jobs_are_numbered_as_they_become_visible(ledger: Ledger) -> None:
    """Promise 4 rests on it: whoever sees a job sees every one that was accepted before."""
    seen: list[list[str]] = []

    def post(number: int) -> None:
        job, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
        ledger.submissions.append.blocking(job.id, documents(f"{number}"))
        ledger.submissions.commit.blocking(job.id)
        seen.append([one.id for one in reversed(ledger.jobs.newest.blocking(limit=1_000))])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(post, range(20)))
    last = max(seen, key=len)
    assert len(last) == 20
    assert all(one == last[: len(one)] for one in seen)


def test_workers_keep_the_order_of_writes_while_more_come_in(ledger: Ledger) -> None:
    """Promise 4: three workers, two who post and cancel; each document's writes are settled in the order of their jobs."""
    settled: list[tuple[str, str]] = []  # (document id, job id) in the order in which they were about to be recorded
    posting = 2

    def post(seed: int) -> None:
        nonlocal posting
        chance = random.Random(seed)
        for _ in range(8):
            job = accept(ledger, *("".join(chance.sample("abcdefgh", chance.randint(1, 4))) for _ in range(2)))
            if chance.random() < 0.2:
                ledger.jobs.cancel.blocking(job.id)
        posting -= 1

    def run(seed: int) -> None:
        chance = random.Random(seed)
        while posting or ledger.jobs.pending_documents.blocking():
            batches = ledger.batches.claim.blocking(10, LEASE_S, max_documents=chance.randint(1, 8))
            time.sleep(0 if batches else 0.01)
            for batch in batches:
                some = chance.sample(outcomes(batch), chance.randint(0, len(batch.items)))
                settled.extend((one.document_id, batch.job_id) for one in some)
                if chance.random() < 0.3:
                    ledger.batches.finish.blocking([(batch, some)])
                else:
                    settled.extend((one.document_id, batch.job_id) for one in outcomes(batch) if one not in some)
                    settle(ledger, batch)

    with ThreadPoolExecutor(5) as threads:
        for future in [threads.submit(post, seed) for seed in range(2)] + [
            threads.submit(run, seed) for seed in range(3)
        ]:
            future.result()
    jobs = [job.id for job in reversed(ledger.jobs.newest.blocking(limit=1_000))]
    place = {job: number for number, job in enumerate(jobs)}
    for each in "abcdefgh":
        order = [place[job] for key, job in settled if key == each]
        assert order == sorted(order)
    check_counts(ledger, jobs)


# --- whatever happens


def test_counts_add_up_whatever_happens(empty: Callable[[], Ledger], clock: Clock, url: str) -> None:
    """Random accepting, claiming, partial finishing, releasing, cancelling and dying: nothing is lost, nothing counted twice, and
    each document's writes are settled in the order they were accepted."""

    @settings(max_examples=20 if url.startswith("sqlite") else 4)
    @given(seed=st.integers(0, 2**32))
    def run(seed: int) -> None:
        _Story(empty(), clock, random.Random(seed)).run()

    run()


class _Story:
    def __init__(self, ledger: Ledger, clock: Clock, chance: random.Random) -> None:
        self.ledger, self.clock, self.chance = ledger, clock, chance
        self.order: dict[str, list[tuple[str, int]]] = {}  # document id -> its writes as accepted
        self.settled: dict[str, list[tuple[str, int]]] = {}
        self.jobs: list[str] = []
        self.cancelled: set[str] = set()
        self.held: list[Batch] = []

    def run(self) -> None:
        for _ in range(25):
            if self.chance.random() < 0.4:
                self.accept()
            self.act()
            if self.jobs and self.chance.random() < 0.1:
                self.cancelled.add(self.chance.choice(self.jobs))
                self.ledger.jobs.cancel.blocking(max(self.cancelled))
            self.clock.now += self.chance.choice([0.0, 1.0, 10.0])
            if self.chance.random() < 0.2:
                check_counts(self.ledger, self.jobs)
        self.clock.now += LEASE_S  # all the workers are dead, and another does what is left
        while self.ledger.housekeeping.tidy.blocking(1e9):
            pass
        while self.ledger.jobs.pending_documents.blocking():
            left = self.ledger.batches.claim.blocking(100, LEASE_S)
            assert left, "there is work, and nobody could ever have it"
            for batch in left:
                self.finish(batch, outcomes(batch))
        check_counts(self.ledger, self.jobs)
        for key, writes in self.order.items():
            done = self.settled.get(key, [])
            assert [one for one in writes if one in done] == done
            assert {job for job, _ in set(writes) - set(done)} <= self.cancelled
        assert all(self.ledger.jobs.find.blocking(job).state.finished for job in self.jobs)

    def accept(self) -> None:
        batches = ["".join(self.chance.sample("abcdef", self.chance.randint(1, 4))) for _ in range(2)]
        job: Job = accept(self.ledger, *batches)
        for position, each in enumerate("".join(batches)):
            self.order.setdefault(each, []).append((job.id, position))
        self.jobs.append(job.id)

    def act(self) -> None:
        self.held += self.ledger.batches.claim.blocking(self.chance.randint(1, 3), LEASE_S, alone=not self.held)
        if not self.held:
            return
        batch = self.held.pop(self.chance.randrange(len(self.held)))
        left = outcomes(batch, self.chance.choice([Status.INDEXED, Status.SKIPPED, Status.FAILED]))
        match self.chance.randint(0, 3):
            case 0:
                self.finish(batch, left)
            case 1:
                self.finish(batch, self.chance.sample(left, self.chance.randint(0, len(left))))
            case 2:
                pause, on = self.chance.choice([0.0, 5.0]), self.chance.choice([None, "x"])
                self.ledger.batches.release.blocking([batch], retry_after_s=pause, waiting_on=on)
            case 3:  # its worker hangs; it may come back after the lease is over, and even later
                self.clock.now += self.chance.choice([0.0, LEASE_S])
                self.held.append(batch)

    def finish(self, batch: Batch, some: list) -> None:  # type: ignore[type-arg]
        if self.ledger.batches.finish.blocking([(batch, some)], retry_after_s=self.chance.choice([0.0, 5.0])):
            for each in sorted(some, key=lambda one: one.position):
                self.settled.setdefault(each.document_id, []).append((batch.job_id, each.position))


def test_a_retry_and_new_writes_at_once(ledger: Ledger) -> None:
    """Whichever comes first, the later write of a document is the one that is settled last."""
    for _ in range(5):
        failed = accept(ledger, "abc")
        settle_all(ledger, Status.FAILED)
        with ThreadPoolExecutor(2) as threads:
            retry = threads.submit(ledger.retries.start.blocking, failed.id)
            write = threads.submit(accept, ledger, "b")
            again, later = retry.result()[0], write.result()
        order = [batch.job_id for batch in _in_order(ledger) if "b" in ids(batch)]
        assert order[-1] == later.id or ledger.jobs.newest.blocking(limit=1)[0].id == again.id
        assert (
            ledger.jobs.find.blocking(again.id).state is ledger.jobs.find.blocking(later.id).state is JobState.SUCCEEDED
        )


def _in_order(ledger: Ledger) -> Iterator[Batch]:
    while batches := ledger.batches.claim.blocking(1, LEASE_S):
        yield from batches
        settle(ledger, batches[0])
