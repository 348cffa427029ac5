"""Voyage's multimodal embeddings over the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from indexer.domain.bodies import Wire, examples
from indexer.domain.inputs import InputIn
from indexer.domain.samples import PNG_URI, QUESTION
from model.errors import InvalidInput
from service.encoder.openai import EmbeddingDatum, TextPart, input_of
from service.schemas.base import ModelName


class UrlPart(Wire):
    """A content part that is an image at a URL."""

    type: Literal["image_url"] = Field(description="an image at a URL", examples=["image_url"])
    image_url: str = Field(description="an http or https URL", examples=["https://example.org/cat.jpg"])


class Base64Part(Wire):
    """A content part that is an image in base64."""

    type: Literal["image_base64"] = Field(description="an image in base64", examples=["image_base64"])
    image_base64: str = Field(description="a data URI", examples=[PNG_URI])


_FORMS = {"text": "<text>", "image_url": "<image_url>", "image_base64": "<image_base64>"}


def _form(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return _FORMS.get(str(kind))


ContentPart = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[UrlPart, Tag("<image_url>")]
    | Annotated[Base64Part, Tag("<image_base64>")],
    Discriminator(
        _form,
        custom_error_type="part_form",
        custom_error_message="a content part has the type text, image_url or image_base64",
    ),
]


class MultimodalInput(Wire):
    """One input: its parts of text, joined by spaces, and at most one image."""

    content: list[ContentPart] = Field(description="the parts of one input", min_length=1)


class MultimodalIn(Wire):
    """Voyage's request for embeddings of texts, images or both."""

    model_config = ConfigDict(
        json_schema_extra=examples(
            {
                "model": "everyday",
                "inputs": [
                    {
                        "content": [
                            {"type": "text", "text": QUESTION},
                            {"type": "image_base64", "image_base64": PNG_URI},
                        ]
                    }
                ],
                "input_type": "query",
                "truncation": True,
                "encoding_format": "base64",
                "output_encoding": "base64",
                "output_dtype": "float",
            }
        )
    )

    inputs: list[MultimodalInput] = Field(description="the inputs, one embedding each", min_length=1)
    model: ModelName | None = Field(
        None, description="the model, by its name in /v1/models; by default the first there", examples=["everyday"]
    )
    input_type: Literal["query", "document"] = Field("document", description="the role of the inputs")
    truncation: bool = Field(True, description="whether a text longer than the model reads is cut instead of refused")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="numbers, or little-endian float32 in base64"
    )
    output_encoding: Literal["base64"] | None = Field(None, description="the same, by the name of Voyage's HTTP API")
    output_dtype: Literal["float"] = Field("float", description="the only type of embeddings here")
    output_dimension: int | None = Field(
        None, description="the length of the model's embeddings; other numbers are refused", examples=[384]
    )


class MultimodalUsage(BaseModel):
    """The size of the inputs for the model."""

    text_tokens: int = Field(description="text tokens plus image patches", examples=[11])
    image_pixels: int = Field(description="always 0: images are counted by their patches", examples=[0])
    video_pixels: int = Field(description="always 0: there are no videos", examples=[0])
    total_tokens: int = Field(description="text tokens plus image patches", examples=[11])


class MultimodalOut(BaseModel):
    """Voyage's answer with embeddings."""

    object: Literal["list"] = Field(description="the object type", examples=["list"])
    model: str = Field(description="the name of the model", examples=["everyday"])
    data: list[EmbeddingDatum] = Field(description="an embedding for each input, in order")
    usage: MultimodalUsage = Field(description="the size of the inputs for the model")


def inputs_of(body: MultimodalIn) -> list[InputIn | InvalidInput]:
    """Return the inputs of a request, or what is wrong with one."""
    return [_input(content.content) for content in body.inputs]


def _input(parts: list[Any]) -> InputIn | InvalidInput:
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part.image_url if isinstance(part, UrlPart) else part.image_base64 for part in parts if _is_image(part)]
    return input_of(texts, images)


def _is_image(part: object) -> bool:
    return isinstance(part, UrlPart | Base64Part)
