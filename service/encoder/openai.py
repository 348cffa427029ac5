"""OpenAI's embeddings and models over the wire, with content parts for images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from indexer.domain.bodies import Wire, examples
from indexer.domain.inputs import InputIn
from indexer.domain.samples import PNG_URI, QUESTION
from indexer.domain.validation import invalid
from model.errors import InvalidInput
from model.types import ModelInfo
from service.schemas.base import ModelName


class TextPart(Wire):
    """A content part of text."""

    type: Literal["text"] = Field(description="a part of text", examples=["text"])
    text: str = Field(description="the text", examples=[QUESTION])


class PartUrl(Wire):
    """An image as OpenAI's content parts have it: a URL or a data URI."""

    url: str = Field(description="an http or https URL, or a data URI", examples=[PNG_URI])
    detail: Literal["auto", "low", "high"] | None = Field(None, description="accepted and ignored", examples=["auto"])


class ImagePart(Wire):
    """A content part that is an image."""

    type: Literal["image_url"] = Field(description="a part that is an image", examples=["image_url"])
    image_url: str | PartUrl = Field(
        description="a URL, a data URI, or an object with one of them", examples=[{"url": PNG_URI}]
    )


# Only the beginning: whether the rest is an image is found out where images are read.
_IMAGE_URI = re.compile(r"data:image/[\w.+-]{1,40}(;[^,;]{1,100})*;base64,", re.IGNORECASE)


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


_PARTS = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": PNG_URI}]


class EmbeddingsIn(Wire):
    """OpenAI's request for embeddings, with images as content parts."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {"model": "atlas", "input": "In Kenya people pay with the shilling."},
            {"input": ["one text", "another text"], "encoding_format": "base64", "user": "somebody"},
            {"input": [_PARTS], "input_type": "query", "truncation": False, "output_dtype": "float"},
        )
    )

    input: Inputs = Field(
        description="a string; a list of strings and of lists of parts, one embedding each; or the parts of one input. "
        "A string that is a data URI of an image is that image"
    )
    model: ModelName | None = Field(
        None, description="the model, by its name in /v1/models; by default the first there", examples=["atlas"]
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float",
        description="numbers, or little-endian float32 in base64, which OpenAI's Python client asks for by default",
    )
    dimensions: int | None = Field(
        None, description="the length of the model's embeddings; other numbers are refused", examples=[256]
    )
    user: str | None = Field(None, description="accepted and ignored")
    truncation: bool = Field(
        True, description="beyond OpenAI's API, as Voyage's: false refuses a text longer than the model reads"
    )
    output_dtype: Literal["float"] = Field("float", description="as Voyage's API: the only type of embeddings here")
    output_dimension: int | None = Field(None, description="as Voyage's API: the same as `dimensions`", examples=[256])
    input_type: Literal["query", "document"] = Field(
        "document", description="beyond OpenAI's API: the role of the inputs"
    )


class EmbeddingDatum(BaseModel):
    """One embedding, as OpenAI answers it."""

    object: Literal["embedding"] = Field(description="the object type", examples=["embedding"])
    index: int = Field(description="the place of its input, from 0", examples=[0])
    embedding: list[float] | str = Field(
        description="numbers, or base64 where `encoding_format` says so", examples=[[0.6, 0.8]]
    )


class Usage(BaseModel):
    """The size of the inputs for the model."""

    prompt_tokens: int = Field(description="text tokens plus image patches", examples=[11])
    total_tokens: int = Field(description="the same number: nothing is generated", examples=[11])


class EmbeddingsOut(BaseModel):
    """OpenAI's answer with embeddings."""

    object: Literal["list"] = Field(description="the object type", examples=["list"])
    model: str = Field(description="the name of the model", examples=["atlas"])
    data: list[EmbeddingDatum] = Field(description="an embedding for each input, in order")
    usage: Usage = Field(description="the size of the inputs for the model")


class OpenAiModelOut(BaseModel):
    """A model, as OpenAI's clients list models."""

    id: str = Field(description="the name of the model in the answers of /v1/embeddings", examples=["atlas"])
    object: Literal["model"] = Field(description="the object type", examples=["model"])
    created: int = Field(description="always 0: checkpoints do not say when they were made", examples=[0])
    owned_by: str = Field(description="always ret2", examples=["ret2"])
    dimensions: int = Field(description="beyond OpenAI's API: the length of its embeddings", examples=[256])
    fingerprint: str = Field(
        description="beyond OpenAI's API: changes with anything that changes embeddings", examples=["3f2c9a"]
    )
    modalities: list[Literal["text", "image"]] = Field(
        description="beyond OpenAI's API: what it embeds, alone or together", examples=[["text", "image"]]
    )
    max_text_tokens: int = Field(description="beyond OpenAI's API: the tokens of a text that it reads", examples=[128])
    image_size_px: int = Field(
        description="beyond OpenAI's API: the side of the square that images are scaled to", examples=[224]
    )


class OpenAiModelsOut(BaseModel):
    """All models, the default first."""

    object: Literal["list"] = Field(description="the object type", examples=["list"])
    data: list[OpenAiModelOut] = Field(description="the models")


def model_wire(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.name,
        "object": "model",
        "created": 0,
        "owned_by": "ret2",
        "dimensions": info.dimensions,
        "fingerprint": info.fingerprint,
        "modalities": list(info.modalities),
        "max_text_tokens": info.max_text_tokens,
        "image_size_px": info.image_size_px,
    }


def items_of(body: EmbeddingsIn) -> list[InputIn | InvalidInput]:
    """Return the inputs of a request. Raises `InvalidInput` for token ids and for an empty list."""
    inputs: list[Any] = [body.input] if isinstance(body.input, str) else body.input
    if not inputs:
        raise InvalidInput("input is an empty list", field="input")
    if any(_is_token(part) for part in inputs):
        raise InvalidInput(
            "input holds token ids, which mean nothing to this model's tokeniser: send text "
            "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
            field="input",
        )
    if any(isinstance(part, TextPart | ImagePart) for part in inputs):
        if not all(isinstance(part, TextPart | ImagePart) for part in inputs):
            raise InvalidInput(
                "input mixes content parts with other inputs: put each input's parts in a list", field="input"
            )
        inputs = [inputs]
    return [_input_of_text(part) if isinstance(part, str) else input_of_parts(part) for part in inputs]


def _input_of_text(text: str) -> InputIn | InvalidInput:
    """Return an input of text, or of an image if the text is a data URI of one: what clients without content parts
    send."""
    return input_of([], [text]) if _IMAGE_URI.match(text) else input_of([text], [])


def _is_token(part: object) -> bool:
    return isinstance(part, int) or (isinstance(part, list) and any(isinstance(token, int) for token in part))


def input_of_parts(parts: Sequence[TextPart | ImagePart]) -> InputIn | InvalidInput:
    """Return one input of its content parts, or what is wrong with it."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part.image_url for part in parts if isinstance(part, ImagePart)]
    return input_of(texts, [image.url if isinstance(image, PartUrl) else image for image in images])


def input_of(texts: Sequence[str], images: Sequence[str]) -> InputIn | InvalidInput:
    """Return one input of its texts, which are joined by spaces, and of its image, or what is wrong with it."""
    if len(images) > 1:
        return InvalidInput(f"{len(images)} images in one input, limit is 1", value=len(images), limit=1)
    if not images and not any(texts):
        return InvalidInput("neither text nor image: at least one is needed")
    try:
        return InputIn(text=" ".join(texts) or None, image=images[0] if images else None)
    except ValidationError as error:
        return invalid(error)
