"""Whether what was read may be a document: the rules of a posted one, said of a row."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from indexer.domain.documents import Incoming
from indexer.imports.locations import ReadImage
from indexer.imports.mapping import DOCUMENT, picture
from model.errors import InvalidInput, TooLarge
from model.images.sources import check_image, is_data_uri, is_web_address, read_base64, read_data_uri
from model.types import Limits

_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,512}")  # as service.schemas.documents has it
_MAX_URL_CHARS = 8192


@dataclass(frozen=True, slots=True)
class DocumentBounds:
    limits: Limits = field(default_factory=Limits)
    max_metadata_bytes: int = 64 * 1024
    max_metadata_depth: int = 8


def incoming(position: int, document: dict[str, Any], read_image: ReadImage, bounds: DocumentBounds) -> Incoming:
    """Raises `InvalidInput`."""
    if unknown := [key for key in document if key not in DOCUMENT]:
        raise InvalidInput(
            f"unknown field {unknown[0]!r:.100}; a document has {', '.join(DOCUMENT)}, a mapping says what else is "
            "what",
            field=unknown[0][:100],
        )
    text = _text(document.get("text"), bounds.limits)
    image = picture(document.get("image"), read_image)
    data, url = _image(image, bounds.limits)
    if text is None and data is None and url is None:
        raise InvalidInput("neither text nor image: at least one is needed")
    return Incoming(position, _id(document.get("id")), text, data, url, _metadata(document.get("metadata"), bounds))


def _id(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _ID.fullmatch(value) or not _encodes(value):
        raise InvalidInput(
            f"id is {value!r:.100}, it must be a string of 1 to 512 characters without control characters",
            field="id",
            value=f"{value!r:.100}",
            limit=512,
        )
    return value


def _text(value: Any, limits: Limits) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"text is a {type(value).__name__}, it must be a string", field="text")
    if len(value) > limits.max_text_chars:
        raise TooLarge(
            f"text has {len(value)} characters, limit is {limits.max_text_chars}",
            field="text",
            value=len(value),
            limit=limits.max_text_chars,
        )
    if not _encodes(value):
        raise InvalidInput("text has half a surrogate pair, which is no character", field="text")
    return value or None


def _encodes(text: str) -> bool:
    """False for half of a surrogate pair: Python's own JSON reads it, and no database or index holds it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _image(image: Any, limits: Limits) -> tuple[bytes | None, str | None]:
    """(bytes, URL), at most one of them."""
    if isinstance(image, dict) and set(image) == {"url"} and isinstance(image["url"], str):
        image = image["url"]
    elif isinstance(image, dict) and set(image) == {"base64"} and isinstance(image["base64"], str):
        image = read_base64(image["base64"], limits)
    if image is None:
        return None, None
    if isinstance(image, str) and is_data_uri(image):
        image = read_data_uri(image, limits)
    if isinstance(image, bytes):
        check_image(image, limits)
        return image, None
    if isinstance(image, str) and is_web_address(image):
        image = image.strip()
        if len(image) > _MAX_URL_CHARS:
            raise TooLarge(
                f"image URL has {len(image)} characters, limit is {_MAX_URL_CHARS}", field="image", limit=_MAX_URL_CHARS
            )
        if not _encodes(image):
            raise InvalidInput("image URL has half a surrogate pair, which is no character", field="image")
        return None, image
    raise InvalidInput(
        f"image is a {type(image).__name__}, it must be a file's bytes, a path, an http(s) URL or base64", field="image"
    )


def _metadata(value: Any, bounds: DocumentBounds) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"metadata is a {type(value).__name__}, it must be an object", field="metadata")
    # Depth first: orjson writes no more than 254 levels, and says so with an error of its own.
    if (depth := _depth(value)) > bounds.max_metadata_depth:
        raise TooLarge(f"metadata is nested {depth} deep, limit is {bounds.max_metadata_depth}", field="metadata")
    try:
        size = len(orjson.dumps(value))
    except TypeError as error:  # half a surrogate pair, an integer over 64 bits
        raise InvalidInput(f"metadata cannot be kept as JSON: {error}", field="metadata") from error
    if size > bounds.max_metadata_bytes:
        raise TooLarge(f"metadata has {size} bytes as JSON, limit is {bounds.max_metadata_bytes}", field="metadata")
    return value


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level := [value for value in level if isinstance(value, dict | list)]:
        deepest += 1
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
    return deepest
