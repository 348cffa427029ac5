"""Jobs, their batches, and what became of each document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from indexer.domain.documents import Document

# In the metadata of a document of a reindex: it is written although the other generation seems to have it.
REWRITING = "rewriting"


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_FAILURES = "succeeded_with_failures"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING, JobState.WAITING)


class JobKind(StrEnum):
    """The kind of work a job does."""

    DOCUMENTS = "documents"
    DELETE = "delete"
    UPDATE = "update"  # the metadata of its documents are patches of documents that are there
    COPY = "copy"  # its documents are ids alone, and in their metadata under `from` the collection they come from
    IMPORT = "import"
    REPAIR = (
        "repair"  # its documents are ids alone, whose last write may have been overwritten by one that came too late
    )
    REINDEX = "reindex"  # its documents are ids alone, to be made equal in the other generation


@dataclass(frozen=True, slots=True)
class Job:
    """accepted = indexed + skipped + failed + cancelled + left. Times are Unix seconds.

    `cancelling`: nothing more of it is begun. `retry_of`: the job whose failures this one tries again. An import is
    `growing` while it is being planned, and `unread` of the accepted documents stand in its files still.
    """

    id: str
    collection: str
    kind: JobKind
    state: JobState
    accepted: int
    indexed: int
    skipped: int
    failed: int
    created_at: float
    updated_at: float
    waiting_on: str | None = None
    cancelled: int = 0
    cancelling: bool = False
    finished_at: float | None = None
    retry_of: str | None = None
    source: Mapping[str, Any] | None = None  # of an import: uri, format, mapping, image_root
    growing: bool = False
    unread: int = 0
    started_at: float | None = None
    # Indexed documents of whose text a part has no embedding.
    truncated: int = 0

    @property
    def left(self) -> int:
        return self.accepted - self.indexed - self.skipped - self.failed - self.cancelled


@dataclass(frozen=True, slots=True)
class Overview:
    """The ledger in numbers: jobs by state, documents accepted and not yet done, and for how long the oldest of them
    has waited."""

    jobs: Mapping[JobState, int]
    pending_documents: int
    oldest_s: float


class Status(StrEnum):
    """The result of one document of a job."""

    INDEXED = "indexed"  # of a delete job: deleted
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Outcome:
    position: int
    document_id: str
    status: Status
    code: str | None = None
    detail: str | None = None
    # Tokens of the text that have no embedding.
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A leased batch: its documents (of a delete job ids alone), each with its position in the job.

    `attempts` counts those that failed by the documents' own fault, `releases` those that a dependency was to blame
    for, `crashes` the workers that never said what became of it, the last of them while it tried the document at
    position `suspect` by itself.
    """

    id: int
    job_id: str
    collection: str
    kind: JobKind
    attempts: int
    releases: int
    items: tuple[tuple[int, Document], ...]
    lease: str
    crashes: int = 0
    suspect: int | None = None
    trace: str | None = None  # of the request that brought its job


@dataclass(frozen=True, slots=True)
class Failure:
    """One document that could not be indexed; `position` counts from 0 in what was posted, or in all files of an
    import."""

    job_id: str
    position: int
    document_id: str
    code: str
    detail: str
    file: str | None = None  # of an import
