"""Bodies and answers of documents and imports."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from indexer.domain.bodies import Wire, examples
from indexer.domain.jobs import Status
from indexer.domain.names import DocumentId
from indexer.domain.samples import DOCUMENT_ID, IN_EUROPE, OTHER_ID
from indexer.imports.mapping import Format
from service.schemas.base import ErrorOut, FilterTree
from service.schemas.jobs import JobOut


class DeleteIn(Wire):
    """The documents to delete: by their ids, or by a filter on their metadata."""

    model_config = ConfigDict(json_schema_extra=examples({"ids": [DOCUMENT_ID, OTHER_ID]}, {"filter": IN_EUROPE}))

    ids: list[DocumentId] | None = Field(None, min_length=1, max_length=10_000, description="ids of documents")
    filter: FilterTree | None = Field(None, description="the documents in the index that fulfil it now")

    @model_validator(mode="after")
    def _check_choice(self) -> DeleteIn:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        return self


class UpdateMatchingIn(Wire):
    """One change of every document that fulfils a filter."""

    model_config = ConfigDict(json_schema_extra=examples({"filter": IN_EUROPE, "metadata": {"continent": "EU"}}))

    filter: FilterTree = Field(description="the documents in the index that fulfil it now")
    metadata: dict[str, Any] = Field(description="a merge patch (RFC 7396) of the metadata of each")


class ImportIn(Wire):
    """The files to import, and the meaning of their fields."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {
                "uri": "s3://pictures/flags.parquet",
                "format": "parquet",
                "mapping": {"text": "caption", "image": "picture", "id": "key", "metadata": ["region"]},
            }
        )
    )

    uri: str = Field(min_length=1, max_length=4096, description="a file, a folder, or a pattern with `*`")
    format: Format | None = Field(None, description="the format of the files; by default their names tell it")
    mapping: dict[str, Any] | None = Field(
        None,
        description='the meaning of the fields: {"text": …, "image": …, "id": …, "metadata": [names] or "*"}',
    )
    image_root: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="the folder that image paths are relative to; by default the folder of the file",
        examples=["s3://pictures"],
    )


class RejectedOut(BaseModel):
    """A document that was not accepted, and why."""

    position: int = Field(
        description="its place in the request, from 0; in NDJSON its line, blank lines counted", examples=[3]
    )
    id: str | None = Field(description="the document's id, where it has a valid one", examples=["flag:xx/area"])
    code: str = Field(description="the error for programs", examples=["invalid_input"])
    detail: str = Field(description="the error for people", examples=["neither text nor image: at least one is needed"])


class ResultOut(BaseModel):
    """The result of one document."""

    id: str = Field(description="the document's id", examples=[DOCUMENT_ID])
    status: Status = Field(description="the result", examples=["indexed"])
    error: ErrorOut | None = Field(None, description="for a failed document: why it failed")
    truncated: int | None = Field(
        None, description="tokens at the end of its text that have no embedding; absent when none", examples=[312]
    )


class AcceptedOut(BaseModel):
    """The job of posted documents; with `wait=true` the result of each."""

    job: JobOut = Field(description="the job that indexes the accepted documents")
    rejected: list[RejectedOut] = Field(
        description="the first of the documents that were not accepted, as many as one JSON call may have"
    )
    rejected_count: int = Field(description="how many documents were not accepted, listed or not", examples=[1])
    results: list[ResultOut] | None = Field(
        None, description="with `wait=true`: the result of each accepted document, in order"
    )
