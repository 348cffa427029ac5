"""Images of request bodies: to bytes, or to the URL of an image that is to be fetched, with the checks that need no
decoding."""

from __future__ import annotations

from model.errors import InvalidInput
from model.images.sources import check_image, is_data_uri, is_web_address, read_base64, read_data_uri
from model.types import Limits
from service.schemas.base import ImageBase64, ImageField, ImageUrl

check = check_image


def source(image: ImageField, limits: Limits) -> bytes | str:
    """Return the checked bytes of an inline image, or the URL of another. Raises `InvalidInput`, `TooLarge`."""
    if isinstance(image, ImageUrl):
        image = image.url
    if isinstance(image, ImageBase64):
        return _checked(read_base64(image.base64, limits), limits)
    if is_data_uri(image):
        return _checked(read_data_uri(image, limits), limits)
    if is_web_address(image):
        return image.strip()
    raise InvalidInput(
        'image is a string that is neither a data URI nor an http(s) URL; send base64 as {"base64": …}', field="image"
    )


def _checked(data: bytes, limits: Limits) -> bytes:
    check_image(data, limits)
    return data
