"""The way in: what was posted becomes blobs and ledger batches, in that order, and only then is it accepted (promise 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from indexer.records import Job, Metadata


@dataclass(frozen=True, slots=True)
class Incoming:
    """One posted document that passed the checks at the HTTP edge. At most one of `image` (file bytes) and `image_url`."""

    position: int
    id: str | None = None
    text: str | None = None
    image: bytes | None = None
    image_url: str | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One posted document that is not accepted, and why."""

    position: int
    id: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Accepted:
    job: Job
    rejected: tuple[Rejected, ...]
