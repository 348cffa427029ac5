"""Bodies and answers of documents and imports."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

from indexer.domain.jobs import Status
from indexer.imports.mapping import Format
from service.schemas.base import DocumentId, ErrorOut, FilterIn, InputIn, Wire
from service.schemas.jobs import JobOut


class DocumentIn(InputIn):
    """A document to index. Without an id it gets one that derives from its content."""

    id: DocumentId | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class DeleteIn(Wire):
    """Documents by their ids, or by a filter on their metadata."""

    ids: list[DocumentId] | None = Field(None, min_length=1, max_length=10_000)
    filter: FilterIn | None = Field(None, description="those that are in the index and fulfil it now")

    @model_validator(mode="after")
    def _one_of_both(self) -> DeleteIn:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("either ids or filter: exactly one of them is needed")
        return self


class DocumentOut(BaseModel):
    id: str
    text: str | None
    image_url: str | None
    metadata: dict[str, Any]
    vector: list[float] | None = None


class ImportIn(Wire):
    """Files of documents, and which of their fields are what."""

    uri: str = Field(min_length=1, max_length=4096, description="a file, a folder, or a pattern with `*`")
    format: Format | None = Field(None, description="unset: by the name")
    mapping: dict[str, Any] | None = Field(
        None, description='which field is what: {"text": …, "image": …, "id": …, "metadata": [names] or "*"}'
    )
    image_root: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="what image paths are relative to; unset: the folder of the file",
    )


class ImportingOut(BaseModel):
    """The job that imports."""

    job: JobOut


class RejectedOut(BaseModel):
    position: int
    id: str | None
    code: str
    detail: str


class ResultOut(BaseModel):
    id: str
    status: Status
    error: ErrorOut | None = None


class AcceptedOut(BaseModel):
    job: JobOut
    rejected: list[RejectedOut]
    rejected_count: int
    results: list[ResultOut] | None = None


class DeletedOut(BaseModel):
    job: JobOut
