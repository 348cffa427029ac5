"""Bodies and answers of facets: the values of metadata fields with their counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from indexer.domain.bodies import Wire, examples
from indexer.domain.samples import IN_EUROPE
from service.schemas.base import FieldName, FilterTree, finite
from service.schemas.search import QueryIn

MAX_FACETS = 16
MAX_LISTED = 1_000


class FacetsIn(Wire):
    """The fields to count, over the documents of a filter, or over those that a query ranks first."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"fields": ["region", "area_km2"], "filter": IN_EUROPE, "limit": 5},
            {"fields": ["region"], "query": {"text": "shilling"}, "mode": "lexical", "score_threshold": 0.1},
        )
    )

    fields: list[FieldName] = Field(min_length=1, max_length=MAX_FACETS, description="metadata fields")
    filter: FilterTree | None = Field(None, description="which documents are counted, by their metadata")
    limit: int = Field(10, ge=1, le=MAX_LISTED, description="how many values of a field are listed")
    query: QueryIn | None = Field(
        None, description="count only the documents that this query ranks first, `max_search_depth` at most"
    )
    mode: Literal["fused", "lexical", "hybrid"] | None = Field(
        None, description="how the query ranks; in mode lexical only documents with its words are counted"
    )
    score_threshold: Annotated[float, AfterValidator(finite)] | None = Field(
        None, description="leave out documents that the query gives a lower score"
    )

    @model_validator(mode="after")
    def _check_options(self) -> FacetsIn:
        if self.query is None and (self.mode is not None or self.score_threshold is not None):
            raise ValueError("mode and score_threshold need a query")
        return self


class FacetValueOut(BaseModel):
    """A value of a field."""

    value: str | bool = Field(description="the value", examples=["Europe"])
    count: int = Field(description="how many documents have it", examples=[44])


class BucketOut(BaseModel):
    """A part of the numbers or times of a field: from one edge, included, to the next, excluded but for the last."""

    low: float | str = Field(description="the lower edge", examples=[0.44])
    high: float | str = Field(description="the upper edge", examples=[1709824.7])
    count: int = Field(description="how many documents have a value in it", examples=[43])


class FacetOut(BaseModel):
    """The values of one field among the counted documents. A document with a list counts for each of its values."""

    field: str = Field(description="the field", examples=["region"])
    values: list[FacetValueOut] = Field(description="texts and booleans, the most frequent first")
    has_more: bool = Field(description="whether there are more values than those listed", examples=[False])
    exact: bool = Field(
        description="false where the counts may be too low: over 100,000 documents, over 1,000 different values, or "
        "where the query ranks more documents than are counted",
        examples=[True],
    )
    min: float | str | None = Field(description="the least number or time; null without any", examples=[0.44])
    max: float | str | None = Field(description="the greatest number or time; null without any", examples=[17098242.0])
    histogram: list[BucketOut] = Field(description="at most ten buckets of equal width between `min` and `max`")


class FacetsOut(BaseModel):
    """The facets of the documents that were counted."""

    documents: int = Field(description="how many documents were counted", examples=[250])
    facets: list[FacetOut] = Field(description="one for each field, in their order")
