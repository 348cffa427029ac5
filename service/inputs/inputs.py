"""The way from a request's input to the model's: images decoded from base64 or fetched, and every check that needs no
model."""

from __future__ import annotations

from typing import Protocol

from indexer.domain.inputs import ImageField, check_text, image_source
from model.errors import InvalidInput, RetrievalError
from model.images.sources import check_image
from model.types import Input, Limits


class ImageFetcher(Protocol):
    @property
    def alive(self) -> bool: ...

    async def fetch(self, url: str) -> bytes: ...

    async def aclose(self) -> None: ...


async def read(text: str | None, image: ImageField | None, limits: Limits, fetcher: ImageFetcher | None) -> Input:
    """Read an input. Raises `InvalidInput`, `TooLarge`, or what fetching raises. Without a fetcher, URLs are
    refused."""
    check_text(text, limits)
    if image is None:
        return Input(text or None)
    source = image_source(image, limits)
    if isinstance(source, str):
        if fetcher is None:
            raise InvalidInput("this service fetches no URLs: send the image as base64", field="image")
        try:
            source = await fetcher.fetch(source)
        except RetrievalError as error:
            error.field = "image"  # it knows the host alone
            raise
        check_image(source, limits)
    return Input(text or None, source)


def check(item: Input, limits: Limits) -> None:
    """Raise `InvalidInput` or `TooLarge` for everything that can be seen without decoding."""
    check_text(item.text, limits)
    if item.image is not None:
        check_image(item.image, limits)
