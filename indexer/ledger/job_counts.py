"""The counts and the state of a job, which change in the transaction that records outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from indexer.domain.jobs import Job, JobKind, JobState, Outcome, Status
from indexer.ledger.sql.rows import as_job, plain
from indexer.ledger.sql.schema import jobs


def count_outcomes(
    connection: sa.Connection, job_id: str, outcomes: Sequence[Outcome], waiting_on: str | None, now: float
) -> None:
    """Add outcomes to the counts of a job and update its state. The caller has locked the job."""
    counts = {status.value: sum(outcome.status is status for outcome in outcomes) for status in Status}
    counts["truncated"] = sum(outcome.truncated > 0 for outcome in outcomes)
    counted = (
        sa.update(jobs)
        .where(jobs.c.id == job_id, jobs.c.finished_at.is_(None))  # a reindex goes on after its end, for a rollback
        .values({name: jobs.c[name] + count for name, count in counts.items()})
        .returning(jobs)
    )
    row = connection.execute(counted).one_or_none()
    if row is None:
        return
    job = as_job(row)
    state = JobState.WAITING if waiting_on else JobState.RUNNING
    ended = job.left == 0 and not job.growing and job.kind is not JobKind.REINDEX  # that ends with the switch
    values: dict[str, object] = {"state": _final(job) if ended else state, "updated_at": now}
    values["waiting_on"] = None if ended or waiting_on is None else plain(waiting_on)
    connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values, finished_at=now if ended else None))


def _final(job: Job) -> JobState:
    if job.cancelled:
        return JobState.CANCELLED
    if not job.failed:
        return JobState.SUCCEEDED
    return JobState.FAILED if job.failed == job.accepted else JobState.SUCCEEDED_WITH_FAILURES
