"""Bodies and answers of searches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from indexer.domain.bodies import Wire, examples
from indexer.domain.inputs import ImageField, InputIn
from indexer.domain.names import CollectionName, DocumentId
from indexer.domain.samples import DOCUMENT_ID, IN_EUROPE, OTHER_ID, PNG_BASE64, QUESTION
from service.schemas.base import ErrorOut, FieldName, FilterTree, Lenient, finite
from service.schemas.boosts import MAX_BOOSTS, BoostIn
from service.schemas.hits import HitOut

# Examples of each kind in one query: one call of the encoder.
MAX_EXAMPLES = 16
# Fields of one order.
MAX_SORTS = 4
# Groups of one search: each may take a query of the store.
MAX_GROUPS = 100


class ExampleIn(InputIn):
    """An example by its content: text, an image, or both, embedded as a query."""


def _example_form(value: object) -> str:
    return "<id>" if isinstance(value, str) else "<content>"


Example = Annotated[
    Annotated[DocumentId, Tag("<id>")] | Annotated[ExampleIn, Tag("<content>")], Discriminator(_example_form)
]


class WeightsIn(Wire):
    """How much text and image count in the embedding of a query that has both. Only their ratio matters."""

    model_config = ConfigDict(json_schema_extra=examples({"text": 0.3, "image": 0.7}))

    text: Annotated[float, AfterValidator(finite)] = Field(ge=0, le=1_000, description="the weight of the text")
    image: Annotated[float, AfterValidator(finite)] = Field(ge=0, le=1_000, description="the weight of the image")

    @model_validator(mode="after")
    def _check_sum(self) -> WeightsIn:
        if not self.text + self.image > 0:
            raise ValueError("both weights are 0: one must be above")
        return self


class QueryIn(Wire):
    """Text, an image, or both; or the id of a document, to find similar ones; and examples of what is sought and what
    is not.

    With examples the search is for 2 * mean(positive) - mean(negative), without negative ones for mean(positive), where
    the text, image or document of the query itself counts as positive. Documents that the query names are never hits.
    """

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"text": QUESTION, "image": {"base64": PNG_BASE64}, "instruction": "Answer:"},
            {"document_id": DOCUMENT_ID, "positive": [{"text": "rivers"}], "negative": [OTHER_ID]},
        )
    )

    text: str | None = Field(None, description="the text")
    image: ImageField | None = Field(None, description="the image")
    instruction: str | None = Field(None, description="put before each text; by default the collection's own")
    document_id: DocumentId | None = Field(
        None, description="a document of the collection, whose stored embedding is the query"
    )
    weights: WeightsIn | None = Field(
        None, description="the weights of the query's text and image, for models that embed each by itself"
    )
    positive: list[Example] = Field(
        [], max_length=MAX_EXAMPLES, description="more examples of what is sought: document ids, or text and image"
    )
    negative: list[Example] = Field(
        [], max_length=MAX_EXAMPLES, description="examples of what is not sought: document ids, or text and image"
    )

    @model_validator(mode="after")
    def _check_kind(self) -> QueryIn:
        if self.document_id is not None and (self.text or self.image is not None):
            raise ValueError("document_id stands in place of text and image: name the document in `positive` instead")
        if self.document_id is None and not self.text and self.image is None and not self.positive:
            why = "negative examples are not enough" if self.negative else "the query is empty"
            raise ValueError(f"{why}: give text, image, document_id or positive")
        if self.weights is not None and not (self.text and self.image is not None):
            raise ValueError("weights are of a text and an image: the query needs both")
        if self.instruction and not self._has_content():
            raise ValueError("instruction goes before a text or an image, and the query has only stored documents")
        return self

    def _has_content(self) -> bool:
        listed = (*self.positive, *self.negative)
        return bool(self.text) or self.image is not None or any(isinstance(example, ExampleIn) for example in listed)


# Of each of the two rankings. A graph gives this many in 2 ms, and a thousand no sooner than reading every vector does.
Candidates = Annotated[
    int,
    Field(
        ge=10,
        le=1_000,
        description="how many hits of each ranking are fused; the ranking ends with them",
        examples=[200],
    ),
]
DEFAULT_CANDIDATES = 200


class RrfIn(Wire):
    """Fusion by rank: the sum of 1 / (k + rank) in the ranking by embedding and in the ranking by words."""

    model_config = ConfigDict(json_schema_extra=examples({"method": "rrf", "k": 60, "candidates": 200}))

    method: Literal["rrf"] = Field(description="reciprocal rank fusion")
    k: int = Field(default=60, ge=1, le=10_000, description="the larger, the less the first places count")
    candidates: Candidates = DEFAULT_CANDIDATES


class WeightedIn(Wire):
    """Fusion by score: both scaled to 0 to 1 and added, the words with this weight and the embedding with its
    complement."""

    model_config = ConfigDict(json_schema_extra=examples({"method": "weighted", "weight": 0.3, "candidates": 200}))

    method: Literal["weighted"] = Field(description="a weighted sum of scores")
    weight: float = Field(default=0.5, ge=0, le=1, description="the weight of the words, 0 to 1")
    candidates: Candidates = DEFAULT_CANDIDATES


class RerankIn(Wire):
    """Late interaction over the candidates nearest by embedding. The ranking ends with them."""

    model_config = ConfigDict(json_schema_extra=examples({"oversampling": 4.0}))

    oversampling: float = Field(
        default=4.0, ge=1, le=100, description="how many candidates there are for each of the first hundred hits"
    )


class SortIn(Wire):
    """A field to sort by."""

    model_config = ConfigDict(json_schema_extra=examples({"field": "area_km2", "order": "desc"}))

    field: FieldName = Field(description="a metadata field of numbers, times, texts or booleans")
    order: Literal["asc", "desc"] = Field("asc", description="from the least value or from the greatest")


# Tags in angle brackets, as in `base`: a wrong option is named `rerank.oversampling`.
Rerank = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[RerankIn, Tag("<options>")],
    Discriminator(lambda value: "<bool>" if isinstance(value, bool) else "<options>"),
]


MetadataFields = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[list[FieldName], Field(max_length=256), Tag("<names>")],
    Discriminator(lambda value: "<bool>" if isinstance(value, bool) else "<names>"),
]


_QUERY = {"text": "shilling"}
# What a search without a query cannot have.
_OF_QUERIES = frozenset(
    (
        "mode",
        "fusion",
        "rerank",
        "explain",
        "highlight",
        "score_threshold",
        "group_by",
        "exact",
        "ef",
        "boost",
        "diversity",
    )
)


class SearchIn(Wire):
    """A search."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"collection": "flags", "query": {"text": "Which money do people use in Kenya?"}, "limit": 5},
            {
                "collection": "flags",
                "query": {"text": QUESTION, "image": {"base64": PNG_BASE64}},
                "filter": IN_EUROPE,
                "score_threshold": 0.1,
                "explain": True,
                "timeout_s": 5.0,
            },
            {
                "collection": "flags",
                "query": {"document_id": DOCUMENT_ID},
                "offset": 1,
                "metadata_fields": ["region"],
                "with_vector": True,
                "consistency": "majority",
                "ef": 1024,
            },
            {"collection": "flags", "query": _QUERY, "exact": True},
            {"collection": "flags", "sort": [{"field": "area_km2", "order": "desc"}]},
            {
                "collection": "flags",
                "query": _QUERY,
                "boost": [{"filter": IN_EUROPE, "weight": 0.1}, {"field": "area_km2", "weight": 1e-8}],
                "diversity": 0.3,
                "explain": True,
            },
            {"collection": "flags", "query": {"text": "borders"}, "group_by": "region", "group_size": 2},
            {
                "collection": "flags",
                "query": _QUERY,
                "mode": "hybrid",
                "fusion": {"method": "rrf", "k": 60},
                "rerank": False,
            },
            {
                "collection": "flags",
                "query": {**_QUERY, "instruction": "Answer:"},
                "mode": "hybrid",
                "fusion": {"method": "weighted", "weight": 0.3},
            },
            {"collection": "flags", "query": _QUERY, "mode": "lexical", "highlight": True},
        )
    )

    collection: CollectionName = Field(description="the name of a collection, or an alias")
    query: QueryIn | None = Field(
        None, description="what to search for; without it, `sort` lists the documents of the filter"
    )
    sort: list[SortIn] = Field(
        [],
        max_length=MAX_SORTS,
        description="the order of the hits by their metadata, the first field above all; with a query, of "
        "the ranking's first `max_search_depth` hits. Documents without a value come last",
    )
    limit: int | None = Field(
        None, ge=1, description="how many hits, or groups; by default the collection's own limit, else 10"
    )
    offset: int = Field(0, ge=0, description="how many hits to skip")
    cursor: str | None = Field(
        None,
        max_length=4096,
        description="the cursor of the page before: the hits behind it. Everything else must be the same, except "
        "limit and "
        "what the hits hold",
    )
    filter: FilterTree | None = Field(None, description="which documents may be hits, by their metadata")
    score_threshold: Annotated[float, AfterValidator(finite)] | None = Field(
        None, description="leave out hits with a lower score"
    )
    group_by: FieldName | None = Field(
        None,
        description="a metadata field: `groups` instead of `hits`, one for each of its values, ordered by their best "
        "hit",
    )
    group_size: int | None = Field(None, ge=1, le=100, description="hits of each group; by default 1")
    metadata_fields: MetadataFields = Field(
        True, description="the metadata fields that hits hold; true for all, false for none"
    )
    with_vector: bool = Field(False, description="whether hits hold their embedding")
    highlight: bool = Field(
        False, description="whether hits hold the passages with the words of the query; in modes lexical and hybrid"
    )
    explain: bool = Field(False, description="whether hits explain what came from text and what from the image")
    boost: list[BoostIn] = Field(
        [],
        max_length=MAX_BOOSTS,
        description="what is added to the scores of the ranking's first 1,000 documents, by their metadata; the "
        "ranking ends with them",
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="how much the first 200 documents of the ranking are chosen for being unlike those before them: 0 "
        "not at all, 1 for nothing else",
    )
    mode: Literal["fused", "lexical", "hybrid"] | None = Field(
        None, description="by embedding, by the words of the texts (BM25), or by both; by default fused"
    )
    fusion: Annotated[RrfIn | WeightedIn, Discriminator("method")] | None = Field(
        None, description="how mode hybrid makes one ranking of two; by default rrf with k 60"
    )
    rerank: Rerank = Field(
        False, description="rank the nearest again by late interaction; for models with several latents"
    )
    timeout_s: float | None = Field(
        None,
        ge=1,
        description="the time after which the answer is an error; by default, and at most, the service's "
        "`request_timeout_s`",
    )
    consistency: Literal["one", "majority", "quorum", "all"] = Field(
        "one", description="how many copies of a shard are read on a Qdrant cluster"
    )

    exact: bool = Field(
        False,
        description="compare every vector instead of following the graph of a Qdrant server; slow on a large "
        "collection",
    )
    ef: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="how many neighbours the graph of a Qdrant server is searched for: more find more and "
        "take longer; by default the collection's `server.hnsw_ef`",
    )

    @model_validator(mode="after")
    def _check_options(self) -> SearchIn:
        if self.query is None and not self.sort:
            raise ValueError("the query is empty: give text, image, document_id or positive, or sort to list documents")
        if self.query is None and (unfit := sorted(name for name in _OF_QUERIES if getattr(self, name))):
            raise ValueError(f"{unfit[0]} needs a query: without one, documents are listed as sort says")
        if self.sort and (self.boost or self.diversity):
            raise ValueError("sort orders by metadata alone: it goes without boost and diversity")
        if self.diversity and self.group_by is not None:
            raise ValueError("groups are ordered by their best hit: group_by goes without diversity")
        if self.sort and self.group_by is not None:
            raise ValueError("groups are ordered by their best hit: group_by goes without sort")
        if self.exact and self.ef is not None:
            raise ValueError("ef is for searches through a graph, and exact asks for none: give one of them")
        if self.cursor is not None and self.offset:
            raise ValueError("cursor and offset both say where the page begins: give one of them")
        if self.group_by is None and self.group_size is not None:
            raise ValueError("group_size needs group_by")
        if self.group_by is not None and (self.cursor is not None or self.offset):
            raise ValueError("groups begin with the best hit: group_by goes with neither offset nor cursor")
        return self


class SearchBatchIn(Wire):
    """Several searches."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {
                "searches": [
                    {"collection": "flags", "query": _QUERY},
                    {"collection": "flags", "query": {"image": {"base64": PNG_BASE64}}, "limit": 3},
                ]
            }
        )
    )

    searches: list[Annotated[SearchIn, Lenient]] = Field(
        min_length=1, description="the searches; each succeeds or fails on its own"
    )


class TimingsOut(BaseModel):
    """Where the time of a search went on the server, in milliseconds."""

    decode_ms: float = Field(
        description="reading the query: fetching and decoding its image, tokenising its text", examples=[1.2]
    )
    queue_ms: float = Field(description="waiting for the model", examples=[0.1])
    encode_ms: float = Field(description="the forward pass of the model", examples=[14.8])
    store_ms: float = Field(description="the search among the vectors", examples=[0.9])
    total_ms: float = Field(description="everything, from the parsed request to the answer", examples=[17.1])


class GroupOut(BaseModel):
    """The hits that share a value of the field."""

    value: str | int | float | bool = Field(description="the value of the field", examples=["Europe"])
    hits: list[HitOut] = Field(description="documents with that value, best first")


class SearchOut(BaseModel):
    """The hits of a search."""

    hits: list[HitOut] = Field(description="documents, best first; empty with `group_by`")
    groups: list[GroupOut] | None = Field(None, description="with `group_by` only: groups, ordered by their best hit")
    cursor: str | None = Field(
        None, description="for the hits behind these; null when there are none", examples=["WzEwLDAuODMsImEiLCJhMSJd"]
    )
    timings: TimingsOut = Field(description="where the time of the search went on the server")


class SearchErrorOut(BaseModel):
    """In place of hits: why there are none."""

    error: ErrorOut = Field(description="what is wrong with this search")


class SearchBatchOut(BaseModel):
    """Hits or an error for each search."""

    results: list[SearchOut | SearchErrorOut] = Field(description="hits or an error for each search, in order")
