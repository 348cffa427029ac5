"""Bodies and answers of collections, aliases and reindexes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from indexer.domain.bodies import Wire, examples
from indexer.domain.names import CollectionName
from indexer.domain.samples import IN_EUROPE, JOB_ID
from indexer.filters import FieldType
from indexer.store.base import Quantization
from service.schemas.base import ErrorOut, FieldName, FilterTree, ModelName


class PassagesSettings(Wire):
    """How texts that are longer than the model reads are cut into passages, at the ends of sentences. Each passage is
    searched by itself; the document is one hit, by its best passage."""

    enabled: bool = Field(
        True, description="whether texts are cut; if not, the model reads their beginning alone", examples=[True]
    )
    tokens: int | None = Field(
        None, ge=8, description="tokens of a passage; null: as many as the model reads, and never more", examples=[64]
    )
    overlap: int = Field(
        0,
        ge=0,
        description="tokens that a passage repeats of the one before, in whole sentences; at most half of it",
        examples=[16],
    )


class ServerOptionsIn(Wire):
    """How the Qdrant server keeps this collection, where it differs from what the service is set to. An embedded index
    has none of these."""

    shards: int | None = Field(
        None, ge=1, le=1000, description="shards; fixed when the collection is created", examples=[6]
    )
    replication_factor: int | None = Field(
        None, ge=1, le=100, description="copies of each shard; fixed when the collection is created", examples=[2]
    )
    write_consistency_factor: int | None = Field(
        None,
        ge=1,
        le=100,
        description="copies that have to have written before a write counts; at most the replication factor",
        examples=[1],
    )
    quantization: Quantization | None = Field(
        None,
        description="none, scalar, binary or product; candidates are scored again by the whole vectors",
        examples=["scalar"],
    )
    vectors_on_disk: bool | None = Field(
        None, description="vectors in memory-mapped files instead of memory", examples=[True]
    )
    payload_on_disk: bool | None = Field(
        None, description="texts and metadata on disk instead of in memory", examples=[True]
    )
    hnsw_m: int | None = Field(None, ge=2, le=256, description="links of a node of the graph", examples=[32])
    hnsw_ef_construct: int | None = Field(
        None, ge=4, le=4096, description="neighbours looked at as the graph is built", examples=[200]
    )
    hnsw_ef: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="neighbours looked at by a search that names no `ef`; `ret2 recall` measures which it needs",
        examples=[512],
    )


class CollectionIn(Wire):
    """Settings of a new collection, or with PATCH the settings to change. With PATCH, null takes a setting away."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {
                "instruction": "Find the passage that answers the question.",
                "limit": 20,
                "indexes": {"region": "keyword", "area_km2": "number"},
                "language": "simple",
                "passages": {"tokens": 64, "overlap": 16},
            }
        )
    )
    nullable = frozenset({"instruction", "limit", "language", "passages"})

    instruction: str | None = Field(
        None, max_length=2000, description="put before the text of queries that have no instruction of their own"
    )
    limit: int | None = Field(None, ge=1, description="hits of a search that names no limit; by default 10")
    model: ModelName | None = Field(
        None,
        description="the model that embeds its documents and queries, by its name in GET /info; by default the first "
        "there; fixed until a reindex",
        examples=["everyday"],
    )
    language: str | None = Field(
        None,
        max_length=60,
        description="the language of the words that modes lexical and hybrid search: one of Snowball's stemmers, "
        "such as "
        "english, or simple, which does not stem; with +tolerant behind it, as in english+tolerant, words are found by "
        "their beginnings and with a typo too; fixed when the collection is created; by default simple",
    )
    passages: PassagesSettings | None = Field(
        None,
        description="how long texts are cut; by default into passages of as many tokens as the model reads. A change "
        "is for documents that are posted after it",
    )
    indexes: dict[FieldName, Annotated[FieldType, Strict(strict=False)]] = Field(
        default_factory=dict,
        max_length=64,
        description="the types of metadata fields: keyword, number, bool, datetime, text or geo; each field gets an "
        "index, "
        "and a filter that uses it as another type is refused; PATCH adds fields",
    )
    server: ServerOptionsIn | None = Field(
        None,
        description="how the Qdrant server keeps it; what is not named is as the service is set to, or with PATCH as "
        "it was; refused on an embedded index",
        examples=[{"quantization": "scalar", "vectors_on_disk": True, "hnsw_m": 32}],
    )


class CopyIn(Wire):
    """Where to copy a collection to, and which of its documents."""

    model_config = ConfigDict(json_schema_extra=examples({"to": "flags-of-europe", "filter": IN_EUROPE}))

    to: CollectionName = Field(
        description="a new collection, which gets the same settings, or a present one of the same model"
    )
    filter: FilterTree | None = Field(None, description="the documents in the index that fulfil it now; by default all")


class AliasIn(Wire):
    """The collection that an alias stands for."""

    model_config = ConfigDict(json_schema_extra=examples({"collection": "flags"}))

    collection: CollectionName = Field(description="the name of a collection")


class AliasOut(BaseModel):
    """Another name of a collection."""

    alias: str = Field(
        description="another name of a collection, which can be switched to another one at once", examples=["nations"]
    )
    collection: str = Field(description="the collection it stands for", examples=["flags"])


class AliasesOut(BaseModel):
    """All aliases that the API key may see."""

    aliases: list[AliasOut] = Field(description="the aliases")


class PassagesSettingsOut(BaseModel):
    """How texts that are longer than the model reads are cut into passages."""

    enabled: bool = Field(description="whether texts are cut", examples=[True])
    tokens: int | None = Field(
        description="tokens of a passage at most; null: as many as the model reads", examples=[64]
    )
    overlap: int = Field(description="tokens that a passage repeats of the one before", examples=[16])


class KeptOnServerOut(BaseModel):
    """How the Qdrant server keeps a collection. PATCH changes it, and Qdrant's own API; a reindex keeps it."""

    status: str = Field(
        description="green; yellow while it is optimized; grey while that waits; red after an error", examples=["green"]
    )
    shards: int = Field(description="shards", examples=[3])
    replication_factor: int = Field(description="copies of each shard", examples=[2])
    write_consistency_factor: int = Field(
        description="copies that have to have written before a write counts", examples=[1]
    )
    quantization: str = Field(description="none, scalar, product, binary or another that it has", examples=["scalar"])
    vectors_on_disk: bool = Field(description="whether vectors are read from disk", examples=[False])
    payload_on_disk: bool = Field(description="whether texts and metadata are read from disk", examples=[True])
    hnsw_m: int = Field(description="links of a node of the graph", examples=[16])
    hnsw_ef_construct: int = Field(description="neighbours looked at as the graph is built", examples=[100])
    hnsw_ef: int = Field(description="neighbours looked at by a search that names no `ef`", examples=[512])
    strict_mode: bool = Field(description="whether the server limits what may be asked of it", examples=[False])


class CollectionOut(BaseModel):
    """A collection as it stands."""

    name: str = Field(description="the name of the collection", examples=["flags"])
    documents: int = Field(description="documents in the index", examples=[2])
    pending: int = Field(description="documents of jobs that wait or run", examples=[0])
    failed: int = Field(
        description="documents whose last accepted write failed, for as long as its job is kept", examples=[1]
    )
    size_bytes: int | None = Field(
        description="the size of the index on disk; null on a Qdrant server", examples=[81920]
    )
    indexes: dict[str, FieldType] = Field(
        description="the declared types of metadata fields", examples=[{"region": "keyword", "area_km2": "number"}]
    )
    indexing: list[str] = Field(
        description="declared fields whose index is still being built; filters on them read the metadata until then. "
        "`(graph)` while the graph of an embedded index is built, and `(waits: …)` with what a build lacks, "
        "such as room on the disk",
        examples=[["region"]],
    )
    aliases: list[str] = Field(description="other names of the collection", examples=[["nations"]])
    limit: int | None = Field(description="hits of a search that names no limit; null: 10", examples=[10])
    model: str = Field(description="the name of the model that filled it", examples=["atlas"])
    fingerprint: str = Field(description="the fingerprint of that model", examples=["3f2c9a"])
    precision: list[str] = Field(
        description="the precisions in which that model embedded its documents; several are no fault: what each costs "
        "is in docs/models.md",
        examples=[["bfloat16"]],
    )
    dimensions: int = Field(description="the length of an embedding", examples=[256])
    instruction: str | None = Field(
        description="put before the text of queries that have no instruction of their own; null for none",
        examples=["Find the passage that answers the question."],
    )
    language: str | None = Field(
        description="the language of the words of texts; null where the collection is damaged",
        examples=["english"],
    )
    passages: PassagesSettingsOut = Field(description="how texts that are longer than the model reads are cut")
    parts: bool = Field(
        description="whether a document may have an embedding for each passage and image; false for a collection that "
        "was made before documents could, until a reindex",
        examples=[True],
    )
    latents: bool = Field(
        description="whether several vectors of each document are kept, so that hits can be reranked", examples=[False]
    )
    server: KeptOnServerOut | None = Field(
        None, description="how the Qdrant server keeps it; null on an embedded index"
    )
    created_at: float = Field(description="Unix time in seconds", examples=[1760000000.0])
    compatible: bool = Field(
        description="whether the model that filled it is served now; if not, searches and writes are refused",
        examples=[True],
    )
    generation: int = Field(description="changes with each reindex", examples=[0])
    error: ErrorOut | None = Field(
        None,
        description="in a list: why the index of this collection cannot be read, so that its documents count as 0, or "
        "why its model is unavailable",
    )


class CollectionsOut(BaseModel):
    """All collections that the API key may see."""

    collections: list[CollectionOut] = Field(description="the collections, by name")


class ReindexIn(Wire):
    """The model to reindex with."""

    model_config = ConfigDict(json_schema_extra=examples({"model": "everyday", "max_failures": 10}))

    model: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="the name or fingerprint of a served model; by default the present one of the collection's name, "
        "where that has changed, or the only other one",
    )
    max_failures: int = Field(
        0, ge=0, description="documents that the new model may fail to embed; with more failures the job waits"
    )


class GenerationOut(BaseModel):
    """The part of a collection that one model filled."""

    generation: int = Field(description="the number of the generation", examples=[1])
    model: str = Field(description="the name of the model", examples=["atlas"])
    fingerprint: str = Field(description="the fingerprint of the model", examples=["3f2c9a"])
    dimensions: int = Field(description="the length of an embedding", examples=[256])


class ReindexOut(BaseModel):
    """The two generations of a collection while it is reindexed and for a while after."""

    collection: str = Field(description="the name of the collection", examples=["flags"])
    state: Literal["filling", "switching", "kept", "rolling_back", "dropping"] = Field(
        description="how far the reindex is", examples=["kept"]
    )
    serving: GenerationOut = Field(description="the generation that searches use now")
    other: GenerationOut = Field(
        description="the generation being filled; or the previous one, kept until a rollback or `until`"
    )
    until: float | None = Field(
        description="when the other generation is dropped, as Unix time in seconds; null while that is open",
        examples=[1760003600.0],
    )
    job: str = Field(description="the id of its job, which has progress and failures", examples=[JOB_ID])
