"""Bodies and answers of calls that read documents without a model: scroll, get and count."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from indexer.domain.bodies import Wire, examples
from indexer.domain.names import DocumentId
from indexer.domain.samples import DOCUMENT_ID, IN_EUROPE, OTHER_ID
from service.schemas.base import FilterTree
from service.schemas.hits import DocumentOut
from service.schemas.search import MetadataFields

# Documents of one page, and ids of one call.
MAX_PAGE = 1_000
DEFAULT_PAGE = 100


class ScrollIn(Wire):
    """Which documents to read, how many of them, and what each is to show."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"filter": IN_EUROPE, "limit": 100}, {"metadata_fields": ["region"], "with_vector": True}
        )
    )

    filter: FilterTree | None = Field(None, description="which documents, by their metadata; by default all")
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE, description="documents of a page")
    cursor: str | None = Field(
        None,
        max_length=4096,
        description="the cursor of the page before: the documents behind it. The filter must be the same",
    )
    metadata_fields: MetadataFields = Field(
        True, description="the metadata fields that documents show; true for all, false for none"
    )
    with_vector: bool = Field(False, description="whether documents show their embedding")


class GetIn(Wire):
    """The documents to read, by their ids, and what each is to show."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"ids": [DOCUMENT_ID, OTHER_ID]}, {"ids": [DOCUMENT_ID], "metadata_fields": False, "with_vector": True}
        )
    )

    ids: list[DocumentId] = Field(min_length=1, max_length=MAX_PAGE, description="ids of documents")
    metadata_fields: MetadataFields = Field(
        True, description="the metadata fields that documents show; true for all, false for none"
    )
    with_vector: bool = Field(False, description="whether documents show their embedding")


class CountIn(Wire):
    """Which documents to count."""

    model_config = ConfigDict(json_schema_extra=examples({"filter": IN_EUROPE}))

    filter: FilterTree | None = Field(None, description="which documents, by their metadata; by default all")


class DocumentsOut(BaseModel):
    """A page of documents."""

    documents: list[DocumentOut] = Field(description="documents, in an order that no write changes")
    cursor: str | None = Field(
        description="for the documents behind these; null when there are none", examples=["WyJjMmEwIiwiOWY4NiJd"]
    )


class GotOut(BaseModel):
    """The documents of some ids."""

    documents: list[DocumentOut] = Field(description="the documents, in the order of the ids, each once")
    missing: list[str] = Field(description="the ids of which the index has no document", examples=[[OTHER_ID]])


class CountOut(BaseModel):
    """How many documents there are."""

    count: int = Field(description="how many documents of the index fulfil the filter, exactly", examples=[2])
