"""Answers about jobs and their failures."""

from __future__ import annotations

from pydantic import BaseModel, Field

from indexer.domain.jobs import JobKind, JobState


class ProgressOut(BaseModel):
    """How far an import is."""

    uri: str = Field(description="what is imported, without the query of a URL")
    format: str = Field(description="of the files")
    planned: bool = Field(description="`accepted` is all there is; until then more is being found")
    unread: int = Field(description="of the accepted documents, those that stand in the files still")
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="what records have and their indexed documents have not, such as a second picture, and how often",
    )
    documents_per_s: float | None = Field(description="done since it began, on average; null before there is any")
    remaining_s: float | None = Field(description="at that rate; null while it is not known")


class JobOut(BaseModel):
    id: str
    collection: str
    kind: JobKind
    state: JobState
    accepted: int
    indexed: int
    skipped: int
    failed: int
    cancelled: int
    retry_of: str | None
    created_at: float
    updated_at: float
    waiting_on: str | None
    progress: ProgressOut | None = Field(None, description="of an import")


class RetriedOut(BaseModel):
    """The job that tries again."""

    job: JobOut


class JobsOut(BaseModel):
    jobs: list[JobOut]


class FailureOut(BaseModel):
    position: int
    id: str
    code: str
    detail: str
    file: str | None = Field(None, description="of an import: the file that the record is in")


class FailuresOut(BaseModel):
    failures: list[FailureOut]
