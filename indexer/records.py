"""The words of the index as plain data: documents, collections, jobs, failures, hits. What crosses a package border is here."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from indexer.filters import FieldType
from model.inputs import Float32, Shares

Metadata = Mapping[str, Any]

# Point ids derive from document ids, so that writing a document twice has the effect of writing it once (promise 3).
_POINT_NAMESPACE = uuid.UUID("6e0a4b54-2f5b-5d0e-9c53-0d6b5b3f7a11")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where a document's image is: a blob already stored (by its SHA-256, hex) or a URL still to be fetched."""

    digest: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One accepted document. `id` is the caller's, or `content_id(...)` when the caller gave none."""

    id: str
    text: str | None = None
    image: ImageRef | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and the model that fills it; vectors of another fingerprint are refused (promise 9).

    `paused`: nothing is written to it just now, for it is being switched to another generation.
    """

    name: str
    fingerprint: str
    model: str
    dimensions: int
    created_at: float
    instruction: str | None = None
    limit: int | None = None  # hits of a search that says nothing
    indexes: Mapping[str, FieldType] = field(default_factory=dict)  # the declared types of metadata fields
    generation: int = 0
    paused: bool = False

    @property
    def points_name(self) -> str:
        """What the points of its present generation are called in the store."""
        return points_name(self.name, self.generation)

    def other(self, reindex: Reindex) -> Collection:
        """The collection as its other generation is."""
        model = {"fingerprint": reindex.fingerprint, "model": reindex.model, "dimensions": reindex.dimensions}
        return replace(self, generation=reindex.generation, **model)  # type: ignore[arg-type]


class ReindexState(StrEnum):
    """fills -> switches -> keeps -> drops; back to fills when the switch is not done in time, and from keeps by way of returns.
    A return that is not done in time lets writes go on, and is tried again."""

    FILLS = "filling"
    SWITCHES = "switching"
    KEEPS = "kept"  # the other generation is the previous one, for a rollback
    RETURNS = "rolling_back"
    DROPS = "dropping"  # nobody asks for the other generation any more

    @property
    def before_switch(self) -> bool:
        return self in (ReindexState.FILLS, ReindexState.SWITCHES)


@dataclass(frozen=True, slots=True)
class Reindex:
    """The other generation of a collection: the one being filled, or the previous one. Times are Unix seconds.

    `version` counts the changes of state: whoever moves it on says from which.
    """

    collection: str
    generation: int
    fingerprint: str
    model: str
    dimensions: int
    state: ReindexState
    version: int
    job_id: str
    since: float  # of this state
    cursor: str | None = None  # the last point of the serving generation that the scan has passed
    scanned: bool = False
    passes: int = 1
    max_failures: int = 0
    until: float | None = None  # kept, or about to be dropped

    @property
    def points_name(self) -> str:
        return points_name(self.collection, self.generation)


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents of a collection that are not in the index: accepted and waiting, and failed without a later write."""

    pending: int
    failed: int


class JobState(StrEnum):
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
    DOCUMENTS = "documents"
    DELETE = "delete"
    IMPORT = "import"
    REPAIR = (
        "repair"  # its documents are ids alone, whose last write may have been overwritten by one that came too late
    )
    REINDEX = "reindex"  # its documents are ids alone, to be made equal in the other generation


@dataclass(frozen=True, slots=True)
class Job:
    """accepted = indexed + skipped + failed + cancelled + left. Times are Unix seconds.

    `cancelling`: nothing more of it is begun. `retry_of`: the job whose failures this one tries again. An import is `growing` while
    it is being planned, and `unread` of the accepted documents stand in its files still.
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

    @property
    def left(self) -> int:
        return self.accepted - self.indexed - self.skipped - self.failed - self.cancelled


@dataclass(frozen=True, slots=True)
class Overview:
    """The ledger in numbers: jobs by state, documents accepted and not yet done, and for how long the oldest of them has waited."""

    jobs: Mapping[JobState, int]
    pending_documents: int
    oldest_s: float


class Status(StrEnum):
    """What became of one document of a job."""

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


@dataclass(frozen=True, slots=True)
class Batch:
    """A leased batch: its documents (of a delete job ids alone), each with its position in the job.

    `attempts` counts those that failed by the documents' own fault, `releases` those that a dependency was to blame for, `crashes`
    the workers that never said what became of it, the last of them while it tried the document at position `suspect` by itself.
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
    """One document that could not be indexed; `position` counts from 0 in what was posted, or in all files of an import."""

    job_id: str
    position: int
    document_id: str
    code: str
    detail: str
    file: str | None = None  # of an import


@dataclass(frozen=True, slots=True)
class Point:
    """One document as it stands in the store."""

    document_id: str
    vector: Float32  # (D,)
    text: str | None
    image_digest: str | None
    metadata: Metadata
    content_hash: str  # `stamped`: of text, original image and metadata, and of the model. Unchanged means skip
    shares: Shares | None = None  # what came from text and image; None of what was indexed before they were kept
    latents: Float32 | None = None  # (K, D); read back only when asked for


@dataclass(frozen=True, slots=True)
class Lexical:
    """What the words of the query did for a hit: its BM25 score, and what that made of the hit's score (1: all of it)."""

    score: float
    share: float


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents in the order of their points, and what to ask for next: None after the last."""

    document_ids: tuple[str, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; `score` is the cosine of query and document embedding unless the search had another mode. `vector` only when
    asked for."""

    document_id: str
    score: float
    text: str | None
    image_digest: str | None
    metadata: Metadata
    vector: Float32 | None = None
    shares: Shares | None = None
    lexical: Lexical | None = None


def points_name(collection: str, generation: int) -> str:
    """`~` is in no collection's name."""
    return f"{collection}~{generation}" if generation else collection


def point_id(document_id: str) -> str:
    """The store's id of a document: a UUID version 5 of the document id."""
    return str(uuid.uuid5(_POINT_NAMESPACE, document_id))


def content_id(text: str | None, image: str | None, metadata: Metadata) -> str:
    """An id for a document that came without one: a hash of its content, so that posting it twice changes nothing."""
    return content_hash(text, image, metadata)[:32]


def content_hash(text: str | None, image: str | None, metadata: Metadata, fingerprint: str = "") -> str:
    """SHA-256 (hex) over a canonical form. `image` is the blob's digest. With a `fingerprint` it is what points had before 0.2."""
    canonical = json.dumps(
        [text, image, metadata, fingerprint], sort_keys=True, ensure_ascii=False, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def stamped(content: str, fingerprint: str) -> str:
    """A content hash with the model that embedded the content."""
    return f"{content}-{fingerprint[:16]}"


def unstamped(stamp: str) -> str | None:
    """The content hash; None for a point of before 0.2, whose hash has the model mixed into it."""
    content, dash, _ = stamp.partition("-")
    return content if dash else None
