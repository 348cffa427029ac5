"""Images as callers write them: base64, data URIs and addresses, read alike wherever they come in. No decoding, no
Pillow."""

from __future__ import annotations

import base64
import binascii
import re

from model.errors import InvalidInput, TooLarge
from model.images.formats import describe, image_format, readable_names
from model.types import Limits

# The part of a data URI before its data. A quoted value of a parameter may hold a comma.
_DATA_URI_HEAD = re.compile(r'\s*data:((?:[^",]|"[^"]*")*),', re.IGNORECASE)
_MAX_HEAD_CHARS = 1_024
_SPACE = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")


def is_data_uri(text: str) -> bool:
    return _scheme(text) == "data"


def is_web_address(text: str) -> bool:
    return _scheme(text) in ("http", "https")


def read_data_uri(text: str, limits: Limits) -> bytes:
    """Return the bytes of a data URI in base64: any case, any parameters (RFC 2397). Raises `InvalidInput` or
    `TooLarge`."""
    head = _DATA_URI_HEAD.match(text[:_MAX_HEAD_CHARS])
    if head is None or head[1].rpartition(";")[2].strip().lower() != "base64":
        raise InvalidInput("image is a data URI without base64; send data:<type>;base64,<data>", field="image")
    return read_base64(text[head.end() :], limits)


def read_base64(text: str, limits: Limits) -> bytes:
    """Return the bytes of base64, plain or url-safe, padded or not, line breaks or not. Raises `InvalidInput` or
    `TooLarge`."""
    # Base64 has four characters for three bytes, and line breaks a little more.
    if len(text) > limits.max_image_bytes * 3 // 2:
        raise too_large(len(text) * 3 // 4, limits)
    try:
        plain = _SPACE.sub("", text).translate(_URL_SAFE).rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"image is not base64: {error}", field="image") from error


def check_image(data: bytes, limits: Limits) -> None:
    """Check everything that needs no decoding: size and format. Raises `InvalidInput` or `TooLarge`."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)", field="image", value=0)
    if len(data) > limits.max_image_bytes:
        raise too_large(len(data), limits)
    file_format = image_format(data)
    if file_format is None or not file_format.readable:
        raise InvalidInput(f"image cannot be read: allowed are {readable_names()}, and {describe(data)}", field="image")


def too_large(size_bytes: int, limits: Limits) -> TooLarge:
    return TooLarge(
        f"image has {size_bytes} bytes, limit is {limits.max_image_bytes}",
        field="image",
        value=size_bytes,
        limit=limits.max_image_bytes,
    )


def _scheme(text: str) -> str:
    return text[:64].lstrip().partition(":")[0].lower()
