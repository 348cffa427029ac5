"""Bodies and answers of collections, aliases and reindexes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Strict

from indexer.filters import FieldType
from service.schemas.base import CollectionName, ErrorOut, FieldName, Wire
from service.schemas.jobs import JobOut


class CollectionIn(Wire):
    """How a collection is made, or with PATCH what of it is changed. With PATCH, null takes a setting away."""

    nullable = frozenset({"instruction", "limit", "language"})

    instruction: str | None = Field(None, max_length=2000, description="put before the text of queries that bring none")
    limit: int | None = Field(None, ge=1, description="hits of searches that name no limit; unset: 10")
    language: str | None = Field(
        None,
        max_length=60,
        description="of the words that modes lexical and hybrid search: a language of Snowball's stemmers, such as english, "
        "or simple, which takes words as they are. Fixed when the collection is made; unset: simple",
    )
    indexes: dict[FieldName, Annotated[FieldType, Strict(strict=False)]] = Field(
        default_factory=dict,
        max_length=64,
        description="the types of metadata fields: keyword, number, bool, datetime, text or geo. Each gets an index, and a "
        "filter that asks a field as another type is refused. PATCH adds to them",
    )


class AliasIn(Wire):
    collection: CollectionName


class AliasOut(BaseModel):
    alias: str
    collection: str


class AliasesOut(BaseModel):
    aliases: list[AliasOut]


class CollectionOut(BaseModel):
    name: str
    documents: int = Field(description="in the index")
    pending: int = Field(description="documents of jobs that wait or run")
    failed: int = Field(description="documents whose last accepted write failed, while its job is kept")
    size_bytes: int | None = Field(description="of the index on disk; null where a Qdrant server has it")
    indexes: dict[str, FieldType] = Field(description="the declared types of metadata fields")
    aliases: list[str]
    limit: int | None
    model: str
    fingerprint: str
    dimensions: int
    instruction: str | None
    language: str | None = Field(
        description="of the words of texts; null: made before they were kept, mode fused alone"
    )
    latents: bool = Field(description="several vectors of each document are kept, so that hits can be reranked")
    created_at: float
    compatible: bool = Field(description="filled by a model that runs now; else searches and writes are refused")
    generation: int = Field(description="another number after each reindex")
    error: ErrorOut | None = Field(
        None, description="in a list: why the index of this collection cannot be read; its documents count as 0 then"
    )


class CollectionsOut(BaseModel):
    collections: list[CollectionOut]


class ReindexingOut(BaseModel):
    job: JobOut


class ReindexIn(Wire):
    model: str | None = Field(
        None, min_length=1, max_length=200, description="name or fingerprint of one that runs here; unset: the next one"
    )
    max_failures: int = Field(
        0, ge=0, description="documents that the new model may fail to embed; with more of them the job waits"
    )


class GenerationOut(BaseModel):
    generation: int
    model: str
    fingerprint: str
    dimensions: int


class ReindexOut(BaseModel):
    collection: str
    state: Literal["filling", "switching", "kept", "rolling_back", "dropping"]
    serving: GenerationOut = Field(description="what searches find now")
    other: GenerationOut = Field(description="being filled; or the previous one, kept until a rollback or `until`")
    until: float | None
    job: str = Field(description="the id of its job, which has progress and failures")
