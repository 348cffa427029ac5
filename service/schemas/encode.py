"""Bodies and answers of /encode."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from indexer.domain.bodies import Wire, examples
from indexer.domain.inputs import InputIn
from indexer.domain.samples import PNG_BASE64, PNG_URI, QUESTION
from service.schemas.base import ErrorOut, Lenient, ModelName


class EncodeIn(Wire):
    """Inputs to embed."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"role": "query", "inputs": [{"text": QUESTION, "image": {"base64": PNG_BASE64}}]},
            {"role": "document", "lane": "bulk", "inputs": [{"text": "France borders Belgium."}, {"image": PNG_URI}]},
        )
    )

    role: Literal["query", "document"] = Field(description="the side of a search that the inputs are on")
    model: ModelName | None = Field(
        None, description="the model, by its name in GET /info; by default the first there", examples=["atlas"]
    )
    lane: Literal["search", "bulk"] | None = Field(
        None,
        description="the queue: searches go before bulk work; by default search for queries and bulk for documents",
    )
    inputs: list[Annotated[InputIn, Lenient]] = Field(min_length=1, description="what to embed, one embedding each")


class EmbeddingOut(BaseModel):
    """The embedding of one input."""

    embedding: list[float] = Field(description="the embedding, of unit length", examples=[[0.6, 0.8]])
    dropped_tokens: int | None = Field(
        None,
        description="tokens of the text over the model's limit, which are not in the embedding; absent when none",
        examples=[12],
    )


class EncodeErrorOut(BaseModel):
    """In place of an embedding: why there is none."""

    error: ErrorOut = Field(description="what is wrong with this input")


class EncodeOut(BaseModel):
    """An embedding or an error for each input."""

    model: str = Field(description="the name of the model", examples=["atlas"])
    dimensions: int = Field(description="the length of an embedding", examples=[2])
    results: list[EmbeddingOut | EncodeErrorOut] = Field(
        description="an embedding or an error for each input, in order",
        examples=[[{"embedding": [0.6, 0.8]}, {"error": {"code": "invalid_input", "detail": "the input is empty"}}]],
    )
