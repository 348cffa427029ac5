"""OpenAI's embeddings and models over the wire, with content parts for images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError

from model.errors import InvalidInput
from model.types import ModelInfo
from service.schemas.base import InputIn, Wire
from service.schemas.validation import invalid


class TextPart(Wire):
    type: Literal["text"]
    text: str


class PartUrl(Wire):
    """An image as OpenAI's content parts have it: a URL or a data URI."""

    url: str
    detail: Literal["auto", "low", "high"] | None = Field(None, description="taken and ignored")


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: str | PartUrl


def _part_form(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return {"text": "<text>", "image_url": "<image_url>"}.get(str(kind))


_ELEMENT_FORMS: dict[type, str] = {str: "<text>", list: "<parts>", dict: "<part>", int: "<token>"}


def _element_form(value: object) -> str | None:
    return _ELEMENT_FORMS.get(type(value))


def _part_or_token_form(value: object) -> str:
    return "<token>" if isinstance(value, int) else "<part>"


def _input_form(value: object) -> str | None:
    return _ELEMENT_FORMS[type(value)] if isinstance(value, str | list) else None


# Tags in angle brackets stay out of the paths of errors.
Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image_url>")],
    Discriminator(
        _part_form, custom_error_type="part_form", custom_error_message="a content part has the type text or image_url"
    ),
]
# Token ids are understood so that they can be refused in words.
PartOrToken = Annotated[
    Annotated[Part, Tag("<part>")] | Annotated[int, Tag("<token>")], Discriminator(_part_or_token_form)
]
Element = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[PartOrToken], Tag("<parts>")]
    | Annotated[Part, Tag("<part>")]
    | Annotated[int, Tag("<token>")],
    Discriminator(
        _element_form,
        custom_error_type="input_form",
        custom_error_message="an input is a string, a content part or a list of content parts",
    ),
]
Inputs = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Element], Tag("<parts>")],
    Discriminator(
        _input_form, custom_error_type="input_form", custom_error_message="input is a string or a list of inputs"
    ),
]


class EmbeddingsIn(Wire):
    input: Inputs = Field(
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
    """What the model worked on: text tokens plus image patches."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(BaseModel):
    object: Literal["list"]
    model: str
    data: list[EmbeddingDatum]
    usage: Usage


class OpenAiModelOut(BaseModel):
    id: str = Field(description="the name that `model` has in the answers of /v1/embeddings")
    object: Literal["model"]
    created: int = Field(description="always 0: checkpoints do not say when they were made")
    owned_by: str
    dimensions: int = Field(description="not OpenAI's: the length of its embeddings")
    fingerprint: str = Field(description="not OpenAI's: changes with anything that changes embeddings")


class OpenAiModelsOut(BaseModel):
    object: Literal["list"]
    data: list[OpenAiModelOut]


def model_wire(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.name,
        "object": "model",
        "created": 0,
        "owned_by": "ret2",
        "dimensions": info.dimensions,
        "fingerprint": info.fingerprint,
    }


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


def _item(parts: list[TextPart | ImagePart]) -> InputIn | InvalidInput:
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part.image_url for part in parts if isinstance(part, ImagePart)]
    if len(images) > 1:
        return InvalidInput(f"{len(images)} images in one input, limit is 1", value=len(images), limit=1)
    if not images and not any(texts):
        return InvalidInput("neither text nor image: at least one is needed")
    image = images[0] if images else None
    if isinstance(image, PartUrl):
        image = image.url
    try:
        return InputIn(text=" ".join(texts) or None, image=image)
    except ValidationError as error:
        return invalid(error)
