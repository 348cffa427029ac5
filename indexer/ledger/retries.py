"""Retries: new jobs with the failures of finished ones."""

from __future__ import annotations

from indexer.domain.jobs import Job, JobKind
from indexer.ledger.imports import read_again
from indexer.ledger.sql.database import Database
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import find_job, unpack
from indexer.ledger.sql.schema import failures
from indexer.ledger.submissions import Overtaken, Submissions, failures_to_retry
from model.errors import Conflict

_PAGE = 64  # failures that become one batch of a retry
_RETRY_TRIES = 5


class Retries(Part):
    def __init__(self, database: Database, submissions: Submissions) -> None:
        super().__init__(database)
        self._submissions = submissions

    @operation
    def start(self, job_id: str) -> tuple[Job, bool]:
        """Return a new job with the failures of a finished one, and whether it is new: a repeated call returns the same
        job.

        A failure is left out if its document was written again since, because the later write stands. Raises
        `NotFound`, or `Conflict` if the job is not finished or has no failure to retry.
        """
        with self._database.read() as connection:
            old = find_job(connection, job_id)
        if old.kind is JobKind.REPAIR:
            raise Conflict(
                f"job {job_id} is a repair: post the documents again, or delete them, that it could not write"
            )
        if old.kind is JobKind.REINDEX:
            raise Conflict(f"job {job_id} is a reindex: ask for that again, and what failed is tried again")
        if not old.state.finished:
            raise Conflict(f"job {job_id} is {old.state}; what failed can be tried again when it is finished")
        for _ in range(_RETRY_TRIES):
            # No header can have a line break in it, so no caller's own key is taken.
            job, new = self._submissions.open.blocking(
                old.collection, old.kind, idempotency_key=f"retry\n{job_id}", retry_of=job_id
            )
            if not new:
                return job, False
            try:
                self._copy_failures(old, job)
                return self._submissions.commit.blocking(job.id), True
            except Overtaken:
                self._submissions.abandon.blocking(job.id)
            except BaseException:
                self._submissions.abandon.blocking(job.id)
                raise
        raise Conflict(f"documents of job {job_id} are being written again just now; their last write stands")

    def _copy_failures(self, old: Job, new: Job) -> None:
        reads_again = read_again(self._database, old, new)
        last = 0
        while True:
            with self._database.read() as connection:
                query = failures_to_retry(old.id).where(failures.c.id > last).order_by(failures.c.id).limit(_PAGE)
                page = connection.execute(query).all()
            if not page:
                break
            last = page[-1].id
            self._submissions.append.blocking(new.id, [unpack(row.item)[0] for row in page])
        if not last and not reads_again:
            raise Conflict(
                f"job {old.id} has nothing to try again: {old.failed} failed, and none of those is the last accepted "
                "write of its document with its content kept"
            )
