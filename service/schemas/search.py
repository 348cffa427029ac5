"""Bodies and answers of searches."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from service.schemas.base import (
    CollectionName,
    DocumentId,
    ErrorOut,
    FieldName,
    FilterIn,
    ImageField,
    InputIn,
    Lenient,
    Wire,
)

MAX_EXAMPLES = 16  # of each kind: one call of the encoder


MAX_GROUPS = 100  # of one search; each may take a query of the store


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
    document: SharesOut | None = Field(
        description="null for what was indexed before shares were kept, and from a model without gates, such as CLIP"
    )
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
