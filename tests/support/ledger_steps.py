"""What the tests of the ledger do with it over and over: accept a job, claim, settle. A character is the id of a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from indexer.domain.collections import Collection
from indexer.domain.documents import Document
from indexer.domain.jobs import Batch, Job, JobKind, Outcome, Status
from indexer.ledger.ledger import Ledger
from indexer.ledger.sql.operation import BoundOperation, Part

LEASE_S = 60.0


class Clock:
    """The time as a ledger sees it; stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def collection(name: str = "flags") -> Collection:
    return Collection(name, "fingerprint", "model", 8, 1.5, None)


def documents(*ids: str) -> list[tuple[int, Document]]:
    return [(position, Document(each, text=f"text of {each}")) for position, each in enumerate(ids)]


def accept(ledger: Ledger, *batches: str, name: str = "flags", kind: JobKind = JobKind.DOCUMENTS) -> Job:
    """A job of one batch for each string."""
    job, new = ledger.submissions.open.blocking(name, kind)
    assert new
    position = 0
    for ids_ in batches:
        ledger.submissions.append.blocking(job.id, [(position + i, Document(each)) for i, each in enumerate(ids_)])
        position += len(ids_)
    return ledger.submissions.commit.blocking(job.id)


def outcomes(batch: Batch, status: Status = Status.INDEXED) -> list[Outcome]:
    why = ("bad", "why") if status is Status.FAILED else (None, None)
    return [Outcome(position, document.id, status, *why) for position, document in batch.items]


def claim(ledger: Ledger) -> Batch:
    """The one batch that is due."""
    (batch,) = ledger.batches.claim.blocking(100, LEASE_S)
    return batch


def settle(ledger: Ledger, batch: Batch, status: Status = Status.INDEXED) -> bool:
    return ledger.batches.finish.blocking([(batch, outcomes(batch, status))])


def settle_all(ledger: Ledger, status: Status = Status.INDEXED) -> None:
    """Everything that is due, and what becomes due by that."""
    while batches := ledger.batches.claim.blocking(100, LEASE_S):
        for batch in batches:
            assert settle(ledger, batch, status)


def ids(batch: Batch) -> str:
    return "".join(document.id for _, document in batch.items)


def claimed(ledger: Ledger, limit: int = 100, **options: object) -> list[str]:
    return [ids(batch) for batch in ledger.batches.claim.blocking(limit, LEASE_S, **options)]  # type: ignore[arg-type]


def pages(ledger: Ledger, job_id: str) -> Iterator[list[Outcome]]:
    """What `Jobs.results` yields."""
    after = 0
    while (page := ledger.jobs.results_page.blocking(job_id, after)) is not None:
        outcomes, after = page
        yield outcomes


def replace_operation(patch: pytest.MonkeyPatch, part: Part, name: str, method: Callable[..., Any]) -> None:
    """Replace an operation of a ledger by a blocking function, for those who await it and those who do not."""
    patch.setattr(part, name, BoundOperation(part._database, method))


def results(ledger: Ledger, job_id: str) -> list[Outcome]:
    return sorted((outcome for page in pages(ledger, job_id) for outcome in page), key=lambda outcome: outcome.position)


def check_counts(ledger: Ledger, jobs: Sequence[str]) -> None:
    """What is counted is what is listed, of each job and together."""
    pending = 0
    for each in jobs:
        job, found = ledger.jobs.find.blocking(each), results(ledger, each)
        by_status = [sum(result.status is status for result in found) for status in Status]
        assert [job.indexed, job.skipped, job.failed, job.cancelled] == by_status
        assert len({result.position for result in found}) == len(found)
        assert len(ledger.jobs.failures.blocking(each, limit=10_000)) == job.failed
        assert job.state.finished == (len(found) == job.accepted) == (job.finished_at is not None)
        pending += job.accepted - len(found)
    assert ledger.jobs.pending_documents.blocking() == pending
