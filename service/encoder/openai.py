"""OpenAI's embeddings request and answer, with content parts for images."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from model.errors import InvalidInput
from service.errors import invalid
from service.schemas import ImageUrl, InputIn, Wire


class TextPart(Wire):
    type: Literal["text"]
    text: str


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: str | ImageUrl


Part = TextPart | ImagePart


class EmbeddingsIn(Wire):
    input: str | list[str | list[Part] | Part | int | list[int]] = Field(
        description="a string; a list of strings and of lists of parts, one embedding each; or the parts of one input"
    )
    model: str | None = Field(None, description="taken and ignored: there is one model, and the answer names it")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="the model's own; other numbers are refused")
    user: str | None = Field(None, description="taken and ignored")
    input_type: Literal["query", "document"] = Field("document", description="not OpenAI's: the role of the inputs")


class EmbeddingDatum(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(BaseModel):
    object: Literal["list"]
    model: str
    data: list[EmbeddingDatum]
    usage: Usage


def items_of(body: EmbeddingsIn) -> list[InputIn | InvalidInput]:
    """The inputs of a request. Raises `InvalidInput` for token ids and for an empty list."""
    given: list[Any] = [body.input] if isinstance(body.input, str) else body.input
    if not given:
        raise InvalidInput("input is an empty list", field="input")
    if any(
        isinstance(one, int) or (isinstance(one, list) and any(isinstance(part, int) for part in one)) for one in given
    ):
        raise InvalidInput(
            "input holds token ids, which mean nothing to this model's tokeniser: send text", field="input"
        )
    if any(isinstance(one, TextPart | ImagePart) for one in given):
        if not all(isinstance(one, TextPart | ImagePart) for one in given):
            raise InvalidInput(
                "input mixes content parts with other inputs: put each input's parts in a list", field="input"
            )
        given = [given]
    return [_item([TextPart(type="text", text=one)] if isinstance(one, str) else one) for one in given]


def _item(parts: list[Part]) -> InputIn | InvalidInput:
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part.image_url for part in parts if isinstance(part, ImagePart)]
    if len(images) > 1:
        return InvalidInput(f"{len(images)} images in one input, limit is 1", value=len(images), limit=1)
    try:
        return InputIn(text=" ".join(texts) or None, image=images[0] if images else None)
    except ValidationError as error:
        return invalid(error.errors(include_url=False))
