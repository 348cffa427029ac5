"""Answers about jobs and their failures."""

from __future__ import annotations

from pydantic import BaseModel, Field

from indexer.domain.jobs import JobKind, JobState
from indexer.domain.samples import JOB_ID


class ProgressOut(BaseModel):
    """The progress of an import."""

    uri: str = Field(description="the source, without the query of a URL", examples=["s3://pictures/flags.parquet"])
    format: str = Field(description="the format of the files", examples=["parquet"])
    planned: bool = Field(
        description="whether `accepted` is final; until then more documents are being found", examples=[True]
    )
    unread: int = Field(description="accepted documents that have not been read from their files", examples=[120])
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="what records have and their indexed documents have not, such as a second picture, and how often",
        examples=[{"field 'thumb': bytes that are not the image of the document": 64}],
    )
    documents_per_s: float | None = Field(
        description="average rate since the import began; null before the first document", examples=[41.5]
    )
    remaining_s: float | None = Field(description="time left at that rate; null while unknown", examples=[2.9])


class JobOut(BaseModel):
    """A job as it stands."""

    id: str = Field(description="the job's id", examples=[JOB_ID])
    collection: str = Field(description="the collection it works on", examples=["flags"])
    kind: JobKind = Field(
        description="index documents, delete documents, update their metadata, copy them from another "
        "collection, import files, repair documents whose last write may have been "
        "overwritten, or reindex a collection",
        examples=["import"],
    )
    state: JobState = Field(description="how far it is", examples=["running"])
    accepted: int = Field(description="documents it has to process", examples=[2])
    indexed: int = Field(description="documents it has indexed or deleted", examples=[1])
    skipped: int = Field(
        description="documents that were unchanged, or replaced by a later write of the same id", examples=[0]
    )
    failed: int = Field(description="documents that failed; /jobs/{id}/failures lists them", examples=[0])
    truncated: int = Field(
        description="indexed documents of whose text a part has no embedding, for it is longer than the model reads "
        "and was not cut into passages, or has too many of them",
        examples=[0],
    )
    cancelled: int = Field(description="documents not begun when the job was cancelled", examples=[0])
    retry_of: str | None = Field(
        description="the job whose failures this one tries again; null for any other job", examples=["01JZ8Q4N6Y2A"]
    )
    created_at: float = Field(description="Unix time in seconds", examples=[1760000000.0])
    updated_at: float = Field(description="Unix time in seconds", examples=[1760000001.5])
    waiting_on: str | None = Field(
        description="why it waits before its next attempt, such as a database that is unavailable; null when it does "
        "not",
        examples=["http://qdrant:6333 does not answer"],
    )
    progress: ProgressOut | None = Field(None, description="the progress of an import; null for other jobs")

    @property
    def left(self) -> int:
        """The documents that are neither done nor given up."""
        return self.accepted - self.indexed - self.skipped - self.failed - self.cancelled


class JobAcceptedOut(BaseModel):
    """The job that carries the request out."""

    job: JobOut = Field(description="the job that carries the request out")


class JobsOut(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobOut] = Field(description="jobs, newest first")


class FailureOut(BaseModel):
    """A document that could not be indexed, and why."""

    position: int = Field(
        description="its place in the request or in the files, from 0; in NDJSON its line, blank lines counted",
        examples=[7],
    )
    id: str = Field(description="the document's id", examples=["flag:xx/area"])
    code: str = Field(description="the error for programs", examples=["invalid_input"])
    detail: str = Field(description="the error for people", examples=["image has 120000000 px, limit is 50000000"])
    file: str | None = Field(
        None, description="the file with the record, in an import", examples=["s3://pictures/flags.parquet"]
    )


class FailuresOut(BaseModel):
    """Failures of a job."""

    failures: list[FailureOut] = Field(description="documents that could not be indexed")
