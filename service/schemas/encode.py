"""Bodies and answers of /encode and /passages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from indexer.domain.bodies import Wire, examples
from indexer.domain.inputs import InputIn
from indexer.domain.samples import PNG_BASE64, PNG_URI, QUESTION
from model.passages import MAX_PASSAGES
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


class PassagesIn(Wire):
    """Texts to cut into passages."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"texts": ["France borders Belgium. Its capital is Paris."], "tokens": 8, "overlap": 4, "max_passages": 8}
        )
    )

    texts: list[str] = Field(min_length=1, description="what to cut, each by itself")
    tokens: int | None = Field(
        None,
        ge=8,
        description="tokens of a passage, at most as many as the model reads, which is also the default",
        examples=[64],
    )
    overlap: int = Field(0, ge=0, description="tokens that a passage repeats of the one before, in whole sentences")
    max_passages: int = Field(MAX_PASSAGES, ge=1, le=MAX_PASSAGES, description="passages of one text")
    model: ModelName | None = Field(
        None, description="the model, by its name in GET /info; by default the first there", examples=["atlas"]
    )


class CutTextOut(BaseModel):
    """The passages of one text."""

    passages: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(
        description="where each passage begins and ends, in characters (Unicode code points) of the text",
        examples=[[[0, 23], [24, 45]]],
    )
    dropped_tokens: int = Field(description="tokens of the text behind its last passage", examples=[0])


class PassagesOut(BaseModel):
    """The passages of each text, in order."""

    model: str = Field(description="the name of the model whose tokens were counted", examples=["atlas"])
    results: list[CutTextOut] = Field(description="the passages of each text, in order")
