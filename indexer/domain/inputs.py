"""Text, an image, or both, as a caller writes them, in documents and in queries.

Bounds that are settings are checked by `check_text` and `image_source`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema

from indexer.domain.bodies import Wire
from indexer.domain.samples import PNG_BASE64, QUESTION
from model.errors import InvalidInput, TooLarge
from model.images.sources import check_image, is_data_uri, is_web_address, read_base64, read_data_uri
from model.types import Limits

MAX_URL_CHARS = 8192


# --- images


class ImageUrl(Wire):
    """An image to be fetched. Private addresses are refused."""

    url: str = Field(
        description=f"an http or https URL of at most {MAX_URL_CHARS} characters, or a data URI",
        examples=["https://example.org/flag.png"],
    )


class ImageBase64(Wire):
    """An image file in base64."""

    base64: str = Field(
        description="the bytes of an image file: PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF", examples=[PNG_BASE64]
    )


def _image_form(value: object) -> str | None:
    if isinstance(value, str | bytes):
        return "<string>" if isinstance(value, str) else "<bytes>"
    fields = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return next((f"<{form}>" for form in ("url", "base64") if fields.get(form) is not None), None)


# Tags in angle brackets: `service.http.problems` leaves them out of the field's path.
ImageField = Annotated[
    Annotated[ImageUrl, Tag("<url>")]
    | Annotated[ImageBase64, Tag("<base64>")]
    | Annotated[str, Tag("<string>")]
    # Out of files, never out of JSON: the bytes of an image file.
    | Annotated[SkipJsonSchema[bytes], Tag("<bytes>")],
    Discriminator(
        _image_form,
        custom_error_type="image_form",
        # Without braces, which pydantic takes for a template.
        custom_error_message="an image is an object with url or with base64, a data URI or an http(s) URL",
    ),
]


def image_source(image: ImageField, limits: Limits) -> bytes | str:
    """Return the checked bytes of an image, or the URL of one that is to be fetched. Raise `InvalidInput`,
    `TooLarge`."""
    if isinstance(image, ImageUrl):
        image = image.url
    if isinstance(image, ImageBase64):
        image = read_base64(image.base64, limits)
    elif isinstance(image, str) and is_data_uri(image):
        image = read_data_uri(image, limits)
    if isinstance(image, bytes):
        check_image(image, limits)
        return image
    if is_web_address(image):
        return _checked_address(image.strip())
    raise InvalidInput(
        'image is a string that is neither a data URI nor an http(s) URL; send base64 as {"base64": …}', field="image"
    )


def _checked_address(address: str) -> str:
    if len(address) > MAX_URL_CHARS:
        raise TooLarge(
            f"image URL has {len(address)} characters, limit is {MAX_URL_CHARS}",
            field="image",
            value=len(address),
            limit=MAX_URL_CHARS,
        )
    check_unicode(address, "image URL", "image")
    return address


# --- inputs


class InputIn(Wire):
    """Text, an image, or both."""

    text: str | None = Field(None, description="the text", examples=[QUESTION])
    image: ImageField | None = Field(None, description="the image", examples=[{"base64": PNG_BASE64}])

    @model_validator(mode="after")
    def _check_content(self) -> InputIn:
        if not self.text and self.image is None:
            raise ValueError("neither text nor image: at least one is needed")
        return self


def check_text(text: str | None, limits: Limits) -> None:
    """Raise `TooLarge` for a text that is longer than may be."""
    if text is not None and len(text) > limits.max_text_chars:
        raise TooLarge(
            f"text has {len(text)} characters, limit is {limits.max_text_chars}",
            field="text",
            value=len(text),
            limit=limits.max_text_chars,
        )


def check_unicode(text: str, name: str, field: str) -> None:
    """Refuse lone surrogates: Python's JSON reader accepts half of a surrogate pair, but no database and no index
    stores it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name} has half a surrogate pair at character {error.start}, which is no character", field=field
        ) from error
