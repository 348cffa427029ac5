"""Cohere's embeddings (version 2 of its API) over the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from indexer.domain.bodies import Wire, examples
from indexer.domain.inputs import InputIn
from indexer.domain.samples import PNG_URI, QUESTION
from model.errors import InvalidInput
from model.types import Role
from service.encoder.openai import Part, input_of, input_of_parts
from service.schemas.base import ModelName

EmbeddingType = Literal["float", "base64"]


class EmbedInput(Wire):
    """One input: its parts of text, joined by spaces, and at most one image."""

    content: list[Part] = Field(description="the parts of one input", min_length=1)


class EmbedIn(Wire):
    """Cohere's request for embeddings: of texts, of images, or of inputs that may have both."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"model": "everyday", "texts": ["a red sneaker", "a teapot"], "input_type": "search_document"},
            {"model": "everyday", "images": [PNG_URI], "input_type": "image", "embedding_types": ["float"]},
            {
                "model": "everyday",
                "inputs": [{"content": [{"type": "text", "text": QUESTION}]}],
                "input_type": "search_query",
                "truncate": "NONE",
                "max_tokens": 512,
                "priority": 0,
            },
        )
    )

    model: ModelName | None = Field(
        None, description="the model, by its name in /v1/models; by default the first there", examples=["everyday"]
    )
    texts: list[str] | None = Field(None, description="texts, one embedding each", min_length=1)
    images: list[str] | None = Field(None, description="data URIs or URLs of images, one embedding each", min_length=1)
    inputs: list[EmbedInput] | None = Field(None, description="inputs of text, image or both", min_length=1)
    input_type: Literal["search_document", "search_query", "classification", "clustering", "image"] = Field(
        "search_document", description="search_query embeds as queries, all others as documents"
    )
    embedding_types: list[EmbeddingType] | None = Field(
        None, description="float (the default), base64 of little-endian float32, or both", min_length=1
    )
    truncate: Literal["END", "NONE"] = Field(
        "END", description="END cuts a text at what the model reads, NONE refuses a longer one"
    )
    output_dimension: int | None = Field(
        None, description="the length of the model's embeddings; other numbers are refused", examples=[384]
    )
    max_tokens: int | None = Field(None, description="accepted and ignored: the model's own limit holds")
    priority: int | None = Field(None, description="accepted and ignored")

    @property
    def role(self) -> Role:
        return Role.QUERY if self.input_type == "search_query" else Role.DOCUMENT


class Embeddings(BaseModel):
    """The embeddings by their type: those that were asked for."""

    numbers: list[list[float]] | None = Field(None, alias="float", description="numbers", examples=[[[0.6, 0.8]]])
    base64: list[str] | None = Field(None, description="little-endian float32 in base64", examples=[["mpkZP83MTD8="]])


class ApiVersion(BaseModel):
    """The version of Cohere's API."""

    version: Literal["2"] = Field(description="always 2", examples=["2"])


class BilledUnits(BaseModel):
    """The size of the inputs for the model. Nothing is billed."""

    input_tokens: int = Field(description="text tokens plus image patches", examples=[11])


class Meta(BaseModel):
    """What Cohere's answers say about themselves."""

    api_version: ApiVersion = Field(description="the version of Cohere's API")
    billed_units: BilledUnits = Field(description="the size of the inputs")


class EmbedOut(BaseModel):
    """Cohere's answer with embeddings."""

    id: str = Field(description="the id of the request", examples=["6f0c1f3a9d5e4b7c"])
    response_type: Literal["embeddings_by_type"] = Field(
        description="the form of the answer", examples=["embeddings_by_type"]
    )
    embeddings: Embeddings = Field(description="the embeddings, in the order of the inputs")
    texts: list[str] | None = Field(None, description="the texts of the request", examples=[["a teapot"]])
    meta: Meta = Field(description="what the answer says about itself")


def inputs_of(body: EmbedIn) -> tuple[str, list[InputIn | InvalidInput]]:
    """Return the field that holds the inputs of a request, and the inputs, or what is wrong with one. Raises
    `InvalidInput` unless one of `texts`, `images` and `inputs` is sent."""
    sent = [name for name in ("texts", "images", "inputs") if getattr(body, name) is not None]
    if len(sent) != 1:
        raise InvalidInput(f"exactly one of texts, images and inputs is needed, sent: {', '.join(sent) or 'none'}")
    if body.texts is not None:
        return "texts", [input_of([text], []) for text in body.texts]
    if body.images is not None:
        return "images", [input_of([], [image]) for image in body.images]
    return "inputs", [input_of_parts(content.content) for content in body.inputs or ()]
