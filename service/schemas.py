"""What goes over the wire, as pydantic models: strict types, no unknown fields. Bounds that are settings are checked elsewhere."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    StringConstraints,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from indexer.filters import FieldType
from indexer.imports.mapping import Format
from model.errors import InvalidInput
from service import filter_schema
from service.errors import invalid
from service.names import COLLECTION_NAME, DOCUMENT_ID

T = TypeVar("T")

MAX_EXAMPLES = 16  # of each kind: one call of the encoder
MAX_GROUPS = 100  # of one search; each may take a query of the store

CollectionName = Annotated[str, StringConstraints(pattern=COLLECTION_NAME)]
DocumentId = Annotated[str, StringConstraints(pattern=DOCUMENT_ID)]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]  # of metadata: keys joined by dots

# Read by `indexer.filters.parse`; here it only has its name in the OpenAPI document.
FilterIn = Annotated[dict[str, Any], WithJsonSchema(filter_schema.REFERENCE)]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


# --- images


class ImageUrl(Wire):
    """An image to be fetched. Private addresses are refused."""

    url: str = Field(max_length=8192)


class ImageBase64(Wire):
    """An image file in base64."""

    base64: str


def _image_form(value: object) -> str | None:
    if isinstance(value, str):
        return "<string>"
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return "<url>" if "url" in keys else "<base64>" if "base64" in keys else None


# Tags in angle brackets: `service.errors` leaves them out of the field's path.
ImageField = Annotated[
    Annotated[ImageUrl, Tag("<url>")] | Annotated[ImageBase64, Tag("<base64>")] | Annotated[str, Tag("<string>")],
    Discriminator(
        _image_form,
        custom_error_type="image_form",
        custom_error_message='an image is {{"url": …}}, {{"base64": …}}, a data URI or an http(s) URL',
    ),
]


# --- inputs


class InputIn(Wire):
    """Text, an image, or both."""

    text: str | None = None
    image: ImageField | None = None

    @model_validator(mode="after")
    def _something(self) -> InputIn:
        if not self.text and self.image is None:
            raise ValueError("neither text nor image: at least one is needed")
        return self


class DocumentIn(InputIn):
    """A document to index. Without an id it gets one that derives from its content."""

    id: DocumentId | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class ExampleIn(InputIn):
    """An example by its content: text, an image, or both, embedded as a query."""


def _example_form(value: object) -> str:
    return "<id>" if isinstance(value, str) else "<content>"


Example = Annotated[
    Annotated[DocumentId, Tag("<id>")] | Annotated[ExampleIn, Tag("<content>")], Discriminator(_example_form)
]


class QueryIn(Wire):
    """Text, an image, or both; or the id of a document, to find what is like it; and examples of what is sought and what is not.

    With examples the search is for 2 * mean(positive) - mean(negative), without negative ones for mean(positive), where the
    text, image or document of the query itself is one of the positive. Documents that the query names are never hits.
    """

    text: str | None = None
    image: ImageField | None = None
    instruction: str | None = Field(None, description="put before each text; unset: the collection's own")
    document_id: DocumentId | None = None
    positive: list[Example] = Field(
        [], max_length=MAX_EXAMPLES, description="more examples of what is sought: document ids, or text and image"
    )
    negative: list[Example] = Field(
        [], max_length=MAX_EXAMPLES, description="examples of what is not sought: document ids, or text and image"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> QueryIn:
        if self.document_id is not None and (self.text or self.image is not None):
            raise ValueError("document_id stands in place of text and image: name the document in `positive` instead")
        if self.document_id is None and not self.text and self.image is None and not self.positive:
            asked = "negative examples alone say nothing of what is sought; " if self.negative else ""
            raise ValueError(f"{asked}neither text, image, document_id nor positive: one is needed")
        if self.instruction and not self._has_content():
            raise ValueError(
                "instruction goes before a text, and the query has neither text nor image: stored embeddings"
            )
        return self

    def _has_content(self) -> bool:
        examples = (*self.positive, *self.negative)
        return bool(self.text) or self.image is not None or any(isinstance(one, ExampleIn) for one in examples)


# --- one bad item among good ones


def _keep_error(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError as error:
        return invalid(error.errors(include_url=False))


# An item that is wrong becomes its own `InvalidInput` and leaves the request standing (promise 2). Read it with `checked`.
Lenient = WrapValidator(_keep_error)


def checked(item: T) -> T | InvalidInput:
    """What a `Lenient` item really is; its annotation tells OpenAPI what it should be."""
    return cast("T | InvalidInput", item)


# --- search


class RrfIn(Wire):
    """By rank: the sum of 1 / (k + rank) in the ranking by embedding and in that by words."""

    method: Literal["rrf"]
    k: int = Field(default=60, ge=1, le=10_000)


class WeightedIn(Wire):
    """By score: both scaled to 0 to 1 and added, the words with this weight and the embedding with the rest."""

    method: Literal["weighted"]
    weight: float = Field(default=0.5, ge=0, le=1)


class RerankIn(Wire):
    """Candidates for each of the first hundred hits: those nearest by embedding, ranked again by all their latents.

    The ranking ends with them."""

    oversampling: float = Field(default=4.0, ge=1, le=100)


# Tags in angle brackets, as above: a wrong option is named `rerank.oversampling`.
Rerank = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[RerankIn, Tag("<options>")],
    Discriminator(lambda value: "<bool>" if isinstance(value, bool) else "<options>"),
]


MetadataFields = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[list[FieldName], Field(max_length=256), Tag("<names>")],
    Discriminator(lambda value: "<bool>" if isinstance(value, bool) else "<names>"),
]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


class SearchIn(Wire):
    collection: CollectionName
    query: QueryIn
    limit: int | None = Field(None, ge=1, description="hits, or groups; unset: the collection's own, else 10")
    offset: int = Field(0, ge=0)
    cursor: str | None = Field(
        None,
        max_length=4096,
        description="of the page before: the hits behind it. The search must be the same but for limit and what the hits hold",
    )
    filter: FilterIn | None = Field(None, description="which documents may be hits, by their metadata")
    score_threshold: Annotated[float, AfterValidator(_finite)] | None = None
    group_by: FieldName | None = Field(
        None, description="a metadata field: `groups` instead of `hits`, one for each of its values, by their best hit"
    )
    group_size: int | None = Field(None, ge=1, le=100, description="hits of each group; unset: 1")
    metadata_fields: MetadataFields = Field(
        True, description="the metadata that hits hold: these fields alone, or true for all, false for none"
    )
    with_vector: bool = False
    explain: bool = Field(False, description="say of each hit what came from text and what from image")
    mode: Literal["fused", "lexical", "hybrid"] | None = Field(
        None, description="by embedding, by the words of the texts (BM25), or by both; unset: fused"
    )
    fusion: Annotated[RrfIn | WeightedIn, Discriminator("method")] | None = Field(
        None, description="how mode hybrid makes one ranking of two; unset: rrf with k 60"
    )
    rerank: Rerank = Field(
        False, description="rank the nearest again by late interaction; for models with several latents"
    )
    timeout_s: float | None = Field(
        None, ge=1, description="an error after this time; unset, and at most: the service's `request_timeout_s`"
    )
    consistency: Literal["one", "majority", "quorum", "all"] = Field(
        "one", description="of the copies of a shard on a Qdrant cluster, how many are asked"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SearchIn:
        if self.cursor is not None and self.offset:
            raise ValueError("cursor and offset both say where the page begins: give one of them")
        if self.group_by is None and self.group_size is not None:
            raise ValueError("group_size is of the groups of group_by, which is not given")
        if self.group_by is not None and (self.cursor is not None or self.offset):
            raise ValueError("groups come from the best hit on: group_by goes with neither offset nor cursor")
        return self


class SearchBatchIn(Wire):
    searches: list[Annotated[SearchIn, Lenient]] = Field(min_length=1)


class ErrorOut(BaseModel):
    code: str
    detail: str


class LayerOut(BaseModel):
    """Of what one tapped layer put into an embedding. Both are 0 where it put nothing."""

    layer: int = Field(description="0 is the earliest of the layers that the model reads")
    text: float
    image: float


class SharesOut(BaseModel):
    layers: list[LayerOut]


class LexicalOut(BaseModel):
    score: float = Field(description="BM25")
    share: float = Field(description="of the hit's score")


class ExplanationOut(BaseModel):
    document: SharesOut | None = Field(description="null for what was indexed before shares were kept")
    query: SharesOut | None
    similarity: float | None = Field(
        description="cosine of query and document embedding, whatever `score` is; null in mode lexical"
    )
    without_text: float | None = Field(
        description="similarity when the query's text is left out; null unless it has both"
    )
    without_image: float | None = Field(
        description="similarity when the query's image is left out; null unless it has both"
    )
    lexical: LexicalOut | None = Field(description="null where no word of the query counted")


class HitOut(BaseModel):
    id: str
    score: float
    text: str | None
    image_url: str | None
    metadata: dict[str, Any]
    vector: list[float] | None = None
    explanation: ExplanationOut | None = None


class TimingsOut(BaseModel):
    decode_ms: float
    queue_ms: float
    encode_ms: float
    store_ms: float
    total_ms: float


class GroupOut(BaseModel):
    value: str | int | float | bool
    hits: list[HitOut]


class SearchOut(BaseModel):
    hits: list[HitOut] = Field(description="best first; empty with `group_by`")
    groups: list[GroupOut] | None = Field(None, description="with `group_by` alone: by their best hit")
    cursor: str | None = Field(None, description="for the hits behind these; null when there are none")
    timings: TimingsOut


class SearchErrorOut(BaseModel):
    error: ErrorOut


class SearchBatchOut(BaseModel):
    results: list[SearchOut | SearchErrorOut]


# --- encode


class EncodeIn(Wire):
    role: Literal["query", "document"]
    lane: Literal["search", "bulk"] | None = Field(
        None, description="which queue: searches go before bulk work. Unset: search for queries, bulk for documents"
    )
    inputs: list[Annotated[InputIn, Lenient]] = Field(min_length=1)


class EmbeddingOut(BaseModel):
    embedding: list[float]
    dropped_tokens: int | None = None


class EncodeErrorOut(BaseModel):
    error: ErrorOut


class EncodeOut(BaseModel):
    model: str
    dimensions: int
    results: list[EmbeddingOut | EncodeErrorOut]


# --- collections, documents, jobs


class CollectionIn(Wire):
    """How a collection is made, or with PATCH what of it is changed."""

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


class CollectionsOut(BaseModel):
    collections: list[CollectionOut]


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


class ProgressOut(BaseModel):
    """How far an import is."""

    uri: str = Field(description="what is imported, without the query of a URL")
    format: str = Field(description="of the files")
    planned: bool = Field(description="`accepted` is all there is; until then more is being found")
    unread: int = Field(description="of the accepted documents, those that stand in the files still")
    documents_per_s: float | None = Field(description="done since it began, on average; null before there is any")
    remaining_s: float | None = Field(description="at that rate; null while it is not known")


class JobOut(BaseModel):
    id: str
    collection: str
    kind: str
    state: str
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
    status: Literal["indexed", "skipped", "failed"]
    error: ErrorOut | None = None


class AcceptedOut(BaseModel):
    job: JobOut
    rejected: list[RejectedOut]
    rejected_count: int
    results: list[ResultOut] | None = None


class DeletedOut(BaseModel):
    job: JobOut


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


# --- operations


class LiveOut(BaseModel):
    alive: bool
    parts: dict[str, bool]


class ReadyOut(BaseModel):
    ready: bool
    checks: dict[str, str] = Field(description="`ok`, or what is wrong")


class ModelOut(BaseModel):
    name: str
    fingerprint: str
    dimensions: int
    max_text_tokens: int
    image_size_px: int
    latents: int = Field(description="vectors of one input; with several, late interaction can rerank")


class InfoOut(BaseModel):
    version: str
    model: ModelOut
    limits: dict[str, int]


class OpenAiError(BaseModel):
    """The same error in the words of OpenAI's clients."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[dict[str, Any]] | None = None
    error: OpenAiError | None = Field(None, description="under /v1/ alone")


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """For bodies that FastAPI does not read: the schema, its parts by reference to models that other routes declare."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema
