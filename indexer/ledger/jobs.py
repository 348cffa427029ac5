"""Jobs as callers see them: their state, the outcomes of their documents, cancelling one, and when jobs are
forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import sqlalchemy as sa

from indexer.domain.jobs import Failure, Job, JobKind, JobState, Outcome, Overview
from indexer.ledger.batches import cancel_some
from indexer.ledger.imports import cancel_unread, import_files
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import as_job, find_job, unpack_outcomes
from indexer.ledger.sql.schema import batches, failures, jobs, pending

_accepted, _open = jobs.c.seq.is_not(None), jobs.c.finished_at.is_(None)
_done = jobs.c.indexed + jobs.c.skipped + jobs.c.failed + jobs.c.cancelled


class Jobs(Part):
    # Of one page of results: with the default size some 3,000 documents.
    result_batches = 50

    @operation
    def find(self, job_id: str) -> Job:
        """Return a job. Raises `NotFound`."""
        with self._database.read() as connection:
            return find_job(connection, job_id)

    @operation
    def newest(
        self,
        *,
        collection: str | None = None,
        prefixes: Iterable[str] = (),
        names: Iterable[str] = (),
        states: Iterable[JobState] = (),
        limit: int = 50,
        offset: int = 0,
    ) -> list[Job]:
        """Return a page of jobs, newest first; with `prefixes`, only jobs of collections whose names begin with one of
        them, or are among `names`."""
        query = sa.select(jobs).where(jobs.c.seq.is_not(None)).order_by(jobs.c.seq.desc()).limit(limit).offset(offset)
        if collection is not None:
            query = query.where(jobs.c.collection == collection)
        if begins := [jobs.c.collection.startswith(prefix, autoescape=True) for prefix in prefixes]:
            query = query.where(sa.or_(*begins, jobs.c.collection.in_(list(names))))
        if chosen_states := list(states):
            query = query.where(jobs.c.state.in_(chosen_states))
        with self._database.read() as connection:
            return [as_job(row) for row in connection.execute(query)]

    @operation
    def write_is_pending(self, collection: str, document_id: str) -> bool:
        """Return whether an accepted write of a document is not settled yet."""
        same = pending.c.collection == collection, pending.c.document_id == document_id
        query = sa.select(pending.c.batch_id).join(batches, batches.c.id == pending.c.batch_id)
        query = query.join(jobs, jobs.c.id == batches.c.job_id).where(*same, jobs.c.seq.is_not(None))
        with self._database.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    @operation
    def failures(self, job_id: str, *, limit: int = 100, offset: int = 0) -> list[Failure]:
        """Return a page of a job's failures, ordered by position, each with the file that contains its record."""
        query = sa.select(failures).where(failures.c.job_id == job_id).order_by(failures.c.position, failures.c.id)
        with self._database.read() as connection:
            rows = connection.execute(query.limit(limit).offset(offset)).all()
            file_of = import_files(connection, job_id, [row.position for row in rows])
            return [
                Failure(row.job_id, row.position, row.document_id, row.code, row.detail, file_of(row.position))
                for row in rows
            ]

    async def results(self, job_id: str) -> AsyncIterator[list[Outcome]]:
        """Yield the outcomes of a job's documents so far in pages, because they may be millions. A page is ordered by
        position."""
        after = 0
        while (page := await self.results_page(job_id, after)) is not None:
            outcomes, after = page
            if outcomes:
                yield outcomes

    @operation
    def results_page(self, job_id: str, after: int) -> tuple[list[Outcome], int] | None:
        """Return the outcomes of the batches that follow the batch `after`, and the last of those; None when there are
        none."""
        query = sa.select(batches.c.id, batches.c.outcomes).where(batches.c.job_id == job_id, batches.c.id > after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(batches.c.id).limit(self.result_batches)).all()
        if not rows:
            return None
        outcomes = [outcome for row in rows for outcome in unpack_outcomes(row.outcomes)]
        return sorted(outcomes, key=lambda outcome: outcome.position), rows[-1].id

    @operation
    def pending_documents(self) -> int:
        """Return how many documents are accepted and not yet indexed, skipped, failed or cancelled."""
        with self._database.read() as connection:
            return _pending_documents(connection)

    @operation
    def bulk_loads(self, documents: int) -> list[Job]:
        """Return the number of open jobs that have `documents` or more still to write, whether or not these are read
        from their files yet."""
        to_come = jobs.c.accepted - _done >= documents
        query = sa.select(jobs).where(_accepted, _open, jobs.c.kind != JobKind.DELETE, to_come)
        with self._database.read() as connection:
            return [as_job(row) for row in connection.execute(query)]

    @operation
    def overview(self) -> Overview:
        with self._database.read() as connection:
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
            pending_documents = _pending_documents(connection)
            age_s = 0.0 if oldest is None else max(0.0, self._database.now(connection) - oldest)
        return Overview({state: states.get(state, 0) for state in JobState}, pending_documents, age_s)

    @operation
    def cancel(self, job_id: str) -> Job:
        """Cancel a job: nothing more of it begins. Work in progress is finished first, then the job ends.

        A finished job stays as it is. Raises `NotFound`.
        """
        with self._database.write() as connection:
            find_job(connection, job_id)
            unfinished = jobs.c.id == job_id, jobs.c.seq.is_not(None), jobs.c.finished_at.is_(None)
            marked = (
                sa.update(jobs).where(*unfinished).values(cancelling=True, updated_at=self._database.now(connection))
            )
            connection.execute(marked)
        while cancel_some(self._database, job_id):
            pass
        cancel_unread(self._database, job_id)
        return self.find.blocking(job_id)


def _pending_documents(connection: sa.Connection) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.accepted - _done), 0)).where(_accepted, _open)
    return int(connection.execute(query).scalar_one())
