"""Images as they come over the wire: base64, data URI or URL to bytes, with the checks that need no decoding."""

from __future__ import annotations

import base64
import binascii
import re

from model.errors import InvalidInput, TooLarge
from model.image_formats import READABLE_NAMES, describe, image_format
from model.types import Limits
from service.schemas.base import ImageBase64, ImageField, ImageUrl

# RFC 2397 and what clients send: parameters with quoted values, any case, spaces around.
_DATA_URI = re.compile(r'\s*data:(?P<type>[\w.+/-]*)(?P<parameters>(?:\s*;\s*(?:"[^"]*"|[^",;])*)*),', re.IGNORECASE)
# Of a data URI, what stands before its data.
_MAX_HEAD_CHARS = 1_024
_SPACE = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")


def source(image: ImageField, limits: Limits) -> bytes | str:
    """The checked bytes of an inline image, or the URL of one that is to be fetched. Raises `InvalidInput`, `TooLarge`."""
    if isinstance(image, ImageUrl):
        image = image.url
    if isinstance(image, ImageBase64):
        return _checked(_decode(image.base64, limits), limits)
    if image.lstrip()[:5].lower() == "data:":
        head = _DATA_URI.match(image[:_MAX_HEAD_CHARS])
        if head is None or not _names_base64(head["parameters"]):
            raise InvalidInput("image is a data URI without base64; send data:<type>;base64,<data>", field="image")
        return _checked(_decode(image[head.end() :], limits), limits)
    if image.lstrip()[:8].lower().startswith(("http://", "https://")):
        return image.strip()
    raise InvalidInput(
        'image is a string that is neither a data URI nor an http(s) URL; send base64 as {"base64": …}', field="image"
    )


def _names_base64(parameters: str) -> bool:
    """Whether the last parameter of a data URI says base64."""
    return parameters.rpartition(";")[2].strip().lower() == "base64"


def check(data: bytes, limits: Limits) -> None:
    """What can be said of an image without decoding it. Raises `InvalidInput`, `TooLarge`."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)", field="image", value=0)
    if len(data) > limits.max_image_bytes:
        raise _too_large(len(data), limits)
    known_format = image_format(data)
    if known_format is None or known_format.pillow is None:
        raise InvalidInput(f"image cannot be read: allowed are {READABLE_NAMES}, and {describe(data)}", field="image")


def _checked(data: bytes, limits: Limits) -> bytes:
    check(data, limits)
    return data


def _decode(text: str, limits: Limits) -> bytes:
    if len(text) > limits.max_image_bytes * 3 // 2:  # base64 is 4/3, line breaks a little more
        raise _too_large(len(text) * 3 // 4, limits)
    try:
        plain = _SPACE.sub("", text).translate(_URL_SAFE).rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"image is not base64: {error}", field="image") from error


def _too_large(size_bytes: int, limits: Limits) -> TooLarge:
    return TooLarge(
        f"image has {size_bytes} bytes, limit is {limits.max_image_bytes}",
        field="image",
        value=size_bytes,
        limit=limits.max_image_bytes,
    )
