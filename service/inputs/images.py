"""Images as they come over the wire: base64, data URI or URL to bytes, with the checks that need no decoding."""

from __future__ import annotations

import base64
import binascii
import re

from model.errors import InvalidInput, TooLarge
from model.images import first_bytes
from model.types import Limits
from service.schemas.base import ImageBase64, ImageField, ImageUrl

_DATA_URI = re.compile(r"data:(?P<type>[\w.+/-]*)(?:;[\w.+=-]+)*?(?P<base64>;base64)?,", re.ASCII)
_SPACE = re.compile(r"\s+")
_ISO_BRANDS = (b"avif", b"avis")

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)

# What a browser shows and cannot run; anything else is handed out as a download.
SHOWN_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


def source(image: ImageField, limits: Limits) -> bytes | str:
    """The checked bytes of an inline image, or the URL of one that is to be fetched. Raises `InvalidInput`, `TooLarge`."""
    if isinstance(image, ImageUrl):
        image = image.url
    if isinstance(image, ImageBase64):
        return _checked(_decode(image.base64, limits), limits)
    if image.startswith("data:"):
        head = _DATA_URI.match(image)
        if head is None or head["base64"] is None:
            raise InvalidInput("image is a data URI without base64: data:<type>;base64,<data> is wanted", field="image")
        return _checked(_decode(image[head.end() :], limits), limits)
    if image.startswith(("http://", "https://")):
        return image
    raise InvalidInput(
        'image is a string that is neither a data URI nor an http(s) URL; send base64 as {"base64": …}', field="image"
    )


def sniff(data: bytes) -> str | None:
    """The content type that the first bytes say, None when they are no image's."""
    for magic, content_type in _MAGIC:
        if data.startswith(magic):
            return content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp" and data[8:12] in _ISO_BRANDS:
        return "image/avif"
    return None


def check(data: bytes, limits: Limits) -> None:
    """What can be said of an image without decoding it. Raises `InvalidInput`, `TooLarge`."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)", field="image", value=0)
    if len(data) > limits.max_image_bytes:
        raise _too_large(len(data), limits)
    if sniff(data) is None:
        what = "an HTML or XML page" if data[:64].lstrip().startswith(b"<") else "no known image format"
        raise InvalidInput(
            f"image is {what}: allowed are PNG, JPEG, WebP, GIF, BMP, TIFF and AVIF, and it starts with {first_bytes(data)}",
            field="image",
        )


def _checked(data: bytes, limits: Limits) -> bytes:
    check(data, limits)
    return data


def _decode(text: str, limits: Limits) -> bytes:
    if len(text) > limits.max_image_bytes * 3 // 2:  # base64 is 4/3, line breaks a little more
        raise _too_large(len(text) * 3 // 4, limits)
    try:
        return base64.b64decode(_SPACE.sub("", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"image is not base64: {error}", field="image") from error


def _too_large(size_bytes: int, limits: Limits) -> TooLarge:
    return TooLarge(
        f"image has {size_bytes} bytes, limit is {limits.max_image_bytes}",
        field="image",
        value=size_bytes,
        limit=limits.max_image_bytes,
    )
