"""Collections, jobs, batches and failures in SQL: what was accepted, what is done, what is not. Blocking; call it in an executor.

A job, its batches and its failures change in one transaction. SQLite (WAL, full sync) on one machine; PostgreSQL later.
Safe to use from several threads. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from indexer.records import Collection, Document, Failure, Job, JobKind, JobState


@dataclass(frozen=True, slots=True)
class Batch:
    """A leased batch: its documents (or, of a delete job, ids alone), each with its position in the job."""

    id: int
    job_id: str
    collection: str
    kind: JobKind
    attempts: int
    items: tuple[tuple[int, Document], ...]


class Ledger:
    def __init__(self, url: str) -> None: ...

    # --- collections
    def create_collection(self, collection: Collection) -> None:
        """Raises `Conflict` when the name is taken."""

    def collection(self, name: str) -> Collection:
        """Raises `NotFound`."""

    def collections(self) -> list[Collection]: ...

    def drop_collection(self, name: str) -> None:
        """With its jobs and batches. Raises `NotFound`."""

    # --- accepting
    def open_job(self, collection: str, kind: JobKind, *, idempotency_key: str | None = None, body_hash: str | None = None) -> Job:
        """A job that is still being written: its batches are not claimed until `commit_job`."""

    def append(self, job_id: str, items: Sequence[tuple[int, Document]]) -> None: ...

    def commit_job(self, job_id: str) -> Job:
        """From here on the job is accepted (promise 3)."""

    def abandon_job(self, job_id: str) -> None: ...

    # --- reading
    def job(self, job_id: str) -> Job: ...

    def jobs(self, *, collection: str | None = None, states: Iterable[JobState] = (), limit: int = 50, offset: int = 0) -> list[Job]: ...

    def failures(self, job_id: str, *, limit: int = 100, offset: int = 0) -> list[Failure]: ...

    def pending_documents(self) -> int: ...

    # --- working: claim, renew, finish | release
    ...

    def close(self) -> None: ...
