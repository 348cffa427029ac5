"""Jobs as others see them: what they are, what became of their documents, ending one early, and when they are forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from indexer.domain.jobs import Failure, Job, JobKind, JobState, Outcome, Overview
from indexer.ledger.batches import Working
from indexer.ledger.rows import as_job, find_job, unpack_outcomes
from indexer.ledger.schema import batches, failures, jobs, reindexes
from indexer.ledger.submissions import Accepting, left_open

_CANCEL_BATCHES = 50  # of one transaction
_RESULT_BATCHES = 50  # of one page: with the default size some 3,000 documents
_accepted, _open = jobs.c.seq.is_not(None), jobs.c.finished_at.is_(None)
_done = jobs.c.indexed + jobs.c.skipped + jobs.c.failed + jobs.c.cancelled


class Jobs(Accepting, Working):
    def job(self, job_id: str) -> Job:
        """Raises `NotFound`."""
        with self._read() as connection:
            return find_job(connection, job_id)

    def jobs(
        self,
        *,
        collection: str | None = None,
        prefixes: Iterable[str] = (),
        states: Iterable[JobState] = (),
        limit: int = 50,
        offset: int = 0,
    ) -> list[Job]:
        """Newest first; with `prefixes`, of collections whose names begin with one of them."""
        query = sa.select(jobs).where(jobs.c.seq.is_not(None)).order_by(jobs.c.seq.desc()).limit(limit).offset(offset)
        if collection is not None:
            query = query.where(jobs.c.collection == collection)
        if begins := [jobs.c.collection.startswith(prefix, autoescape=True) for prefix in prefixes]:
            query = query.where(sa.or_(*begins))
        if wanted := list(states):
            query = query.where(jobs.c.state.in_(wanted))
        with self._read() as connection:
            return [as_job(row) for row in connection.execute(query)]

    def failures(self, job_id: str, *, limit: int = 100, offset: int = 0) -> list[Failure]:
        """By position."""
        query = sa.select(failures).where(failures.c.job_id == job_id).order_by(failures.c.position, failures.c.id)
        with self._read() as connection:
            return [
                Failure(row.job_id, row.position, row.document_id, row.code, row.detail)
                for row in connection.execute(query.limit(limit).offset(offset))
            ]

    def results(self, job_id: str) -> Iterator[list[Outcome]]:
        """What became of each document so far, in pages, for they may be millions: of what was posted by position."""
        after = 0
        while True:
            query = sa.select(batches.c.id, batches.c.outcomes).where(batches.c.job_id == job_id, batches.c.id > after)
            with self._read() as connection:
                rows = connection.execute(query.order_by(batches.c.id).limit(_RESULT_BATCHES)).all()
            if not rows:
                return
            after = rows[-1].id
            if found := [outcome for row in rows for outcome in unpack_outcomes(row.outcomes)]:
                yield sorted(found, key=lambda outcome: outcome.position)

    def pending_documents(self) -> int:
        """Accepted and not yet indexed, skipped, failed or cancelled."""
        query = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.accepted - _done), 0))
        with self._read() as connection:
            found = connection.execute(query.where(jobs.c.finished_at.is_(None), jobs.c.seq.is_not(None)))
            return int(found.scalar_one())

    def loads(self, documents: int) -> list[Job]:
        """Open jobs that have `documents` or more still to write, whether or not they are read from their files yet."""
        to_come = jobs.c.accepted - _done >= documents
        query = sa.select(jobs).where(_accepted, _open, jobs.c.kind != JobKind.DELETE, to_come)
        with self._read() as connection:
            return [as_job(row) for row in connection.execute(query)]

    def overview(self) -> Overview:
        with self._read() as connection:
            counted = connection.execute(
                sa.select(jobs.c.state, sa.func.count()).where(_accepted).group_by(jobs.c.state)
            )
            states = {JobState(state): count for state, count in counted}
            documents = (
                _accepted,
                _open,
                jobs.c.kind != JobKind.REINDEX,
            )  # that may well take days, and nobody waits for it
            oldest = connection.execute(sa.select(sa.func.min(jobs.c.created_at)).where(*documents)).scalar_one()
            age_s = 0.0 if oldest is None else max(0.0, self._now(connection) - oldest)
        return Overview({state: states.get(state, 0) for state in JobState}, self.pending_documents(), age_s)

    def cancel_job(self, job_id: str) -> Job:
        """The job, of which nothing more is begun; what is in a worker's hands is finished first, and then so is the job.

        One that is finished stays as it is. Raises `NotFound`.
        """
        with self._write() as connection:
            find_job(connection, job_id)
            unfinished = jobs.c.id == job_id, jobs.c.seq.is_not(None), jobs.c.finished_at.is_(None)
            marked = sa.update(jobs).where(*unfinished).values(cancelling=True, updated_at=self._now(connection))
            connection.execute(marked)
        while self.cancel_some(job_id, _CANCEL_BATCHES):
            pass
        return self.job(job_id)

    def tidy(self, retention_s: float) -> bool:
        """A little of what nobody waits for, in small transactions: the rest of cancelled jobs, jobs that were never accepted,
        and jobs finished longer than `retention_s` ago. Whether there is more to do. Any number of processes may do it at once."""
        with self._read() as connection:
            now = self._now(connection)
            accepted = jobs.c.seq.is_not(None), jobs.c.finished_at.is_(None)
            stopped = connection.execute(_first(jobs.c.cancelling, *accepted, limit=10)).scalars().all()
            needed = jobs.c.id.in_(sa.select(reindexes.c.job_id))  # its batches keep the previous generation up to date
            old = _first(jobs.c.finished_at < now - retention_s, ~needed)
            forgotten = connection.execute(old).scalar_one_or_none()
            abandoned = connection.execute(_first(*left_open(now))).scalar_one_or_none()
        self._forget_doubts(retention_s)
        more = [self.cancel_some(job_id, _CANCEL_BATCHES) for job_id in stopped]
        if forgotten is not None:
            self._erase_some(forgotten)
        if abandoned is not None:
            self._erase_left(abandoned)
        return any(more) or forgotten is not None or abandoned is not None


def _first(*conditions: sa.ColumnElement[bool], limit: int = 1) -> sa.Select[str]:
    return sa.select(jobs.c.id).where(*conditions).limit(limit)
