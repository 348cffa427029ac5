"""From what was sent to what the model takes: images decoded from base64 or fetched, every check that needs no
model."""

from __future__ import annotations

from typing import Protocol

from model.errors import InvalidInput, RetrievalError, TooLarge
from model.types import Input, Limits
from service.inputs import images
from service.schemas.base import ImageField


class ImageFetcher(Protocol):
    @property
    def alive(self) -> bool: ...

    async def fetch(self, url: str) -> bytes: ...

    async def aclose(self) -> None: ...


async def read(text: str | None, image: ImageField | None, limits: Limits, fetcher: ImageFetcher | None) -> Input:
    """Raises `InvalidInput`, `TooLarge`, or what fetching raises. Without a fetcher, URLs are refused."""
    check_text(text, limits)
    if image is None:
        return Input(text or None)
    source = images.source(image, limits)
    if isinstance(source, str):
        if fetcher is None:
            raise InvalidInput("this service fetches no URLs: send the image as base64", field="image")
        try:
            source = await fetcher.fetch(source)
        except RetrievalError as error:
            error.field = "image"  # it knows the host alone
            raise
        images.check(source, limits)
    return Input(text or None, source)


def check(item: Input, limits: Limits) -> None:
    """Raises `InvalidInput` or `TooLarge` for what can be seen without decoding."""
    check_text(item.text, limits)
    if item.image is not None:
        images.check(item.image, limits)


def check_text(text: str | None, limits: Limits) -> None:
    if text is not None and len(text) > limits.max_text_chars:
        raise TooLarge(
            f"text has {len(text)} characters, limit is {limits.max_text_chars}",
            field="text",
            value=len(text),
            limit=limits.max_text_chars,
        )
