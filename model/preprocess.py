"""Text and images as arrays for the towers: token ids and normalised pixels. Pure functions of the input."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.config import ImageConfig, NaflexConfig
from model.errors import InvalidInput, TooLarge
from model.images.decoding import decode_image
from model.images.resizing import resize
from model.passages import Cut, Passages, cut_text
from model.text import normalise
from model.types import Float32, Input, Limits, Prepared, Role

# Part of a model's fingerprint: raise it when a change here changes what a tower sees by more than rounding.
VERSION = 2
# At most 4 ms of a tokenizer; 100,000 characters of Han take 160 ms.
_LONG_TEXT_CHARS = 2_048
_STRIP = 64  # times the shortest side: 64 x 224 x 224 pixels are 10 MB

_SPACE = re.compile(r"\s+")


class Encoding(Protocol):
    """The result of a tokeniser: ids, and a mask that is 1 where an id is a special token."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def special_tokens_mask(self) -> Sequence[int]: ...


class Tokenizer(Protocol):
    """The part of `tokenizers.Tokenizer` in use; thread-safe while its truncation and padding stay off."""

    def encode(self, sequence: Any, /) -> Encoding: ...

    def encode_batch(self, sequences: Any, /) -> Sequence[Encoding]: ...


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Input to `Prepared`. Thread-safe; the slow half of encoding that needs no model."""

    tokenizer: Tokenizer
    max_text_tokens: int
    image: ImageConfig
    patches: int  # what one image costs: the tower's positions
    reads_text: bool = True  # whether there is a tokeniser
    text_positions: int | None = None  # what a text costs in a tower that pads all texts alike; None: its tokens

    def prepare(self, item: Input, role: Role, limits: Limits) -> Prepared:
        """Prepare an input for the towers. Raises `InvalidInput` or `TooLarge` with the field, its value and the
        limit."""
        text = normalise_text(item.text or "", limits)
        if not text and item.image is None:
            raise InvalidInput("neither text nor image: text is empty and there is no image", field="text")
        tokens, dropped = self.tokens(text) if text else (None, 0)
        pixels = None if item.image is None else self._pixels(item.image, limits)
        text_cost = 0 if tokens is None else self.text_positions or len(tokens)
        return Prepared(role, tokens, pixels, text_cost + (0 if pixels is None else self.patches), dropped)

    def passages(self, text: str, cut: Cut, limits: Limits) -> Passages:
        """Cut a text into passages that the model reads whole."""
        if not self.reads_text:
            return Passages(((0, len(text)),))

        def count(texts: Sequence[str]) -> list[int]:
            encodings = self.tokenizer.encode_batch([normalise_text(text, limits) for text in texts]) if texts else ()
            return [len(encoding.ids) - sum(encoding.special_tokens_mask) for encoding in encodings]

        most = min(cut.tokens or self.max_text_tokens, self.max_text_tokens)
        return cut_text(text, cut, most - sum(self._encode("").special_tokens_mask), count)

    def _pixels(self, image: bytes, limits: Limits) -> Float32:
        """Decode an image to pixels (3, S, S).

        A large JPEG is decoded at no less than twice the size that is needed: 3 times faster at 2 megapixels, 5 times
        at 12, and on average within one and a half 8-bit steps of full decoding, even for a noisy picture
        (test_preprocess).
        """
        smallest_px = 2 * (self.image.crop_from_px or self.image.size_px)
        return image_pixels(decode_image(image, limits, at_least_px=smallest_px), self.image)

    def tokens(self, text: str) -> tuple[NDArray[np.int64], int]:
        """Return the ids cut to the model's limit, special tokens at the end kept, and how many were cut."""
        encoding = self._encode(text)
        ids, dropped = encoding.ids, max(0, len(encoding.ids) - self.max_text_tokens)
        if dropped:
            closing = 0
            while closing < len(ids) and encoding.special_tokens_mask[-1 - closing]:
                closing += 1
            ids = [*ids[: self.max_text_tokens - closing], *ids[len(ids) - closing :]]
        return np.asarray(ids, dtype=np.int64), dropped

    def _encode(self, text: str) -> Encoding:
        """Tokenise. Of the tokenizer's calls only the one for batches lets other threads run meanwhile."""
        if len(text) < _LONG_TEXT_CHARS:
            return self.tokenizer.encode(text)
        return self.tokenizer.encode_batch([text])[0]


def padded(tokens: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return token ids of several lengths as one array (B, T), padded to the longest, and its mask."""
    longest = max(map(len, tokens))
    ids = np.zeros((len(tokens), longest), np.int64)
    mask = np.zeros((len(tokens), longest), bool)
    for row, values in enumerate(tokens):
        ids[row, : len(values)], mask[row, : len(values)] = values, True
    return ids, mask


def normalise_text(text: str, limits: Limits) -> str:
    """Normalise a text to NFC, replace control characters and runs of white space by one space, and trim it.

    Raises `TooLarge` over `max_text_chars`.
    """
    if len(text) > limits.max_text_chars:
        raise TooLarge(
            f"text has {len(text)} characters, limit is {limits.max_text_chars}",
            field="text",
            value=len(text),
            limit=limits.max_text_chars,
        )
    text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    return _SPACE.sub(" ", normalise("NFC", text)).strip()


def image_pixels(image: Image.Image, config: ImageConfig) -> Float32:
    """Convert an RGB image to normalised pixels (3, S, S), for NaFlex (3, H, W). They are those of transformers' Pillow
    processors as nearly as `resize` is Pillow's, except for strips of more than 64 : 1."""
    size, resample = config.size_px, Image.Resampling[config.resample.upper()]
    if isinstance(config, NaflexConfig):
        pixels = resize(image, naflex_size(image.size, config.patch_px, config.max_patches), resample)
    elif config.resize == "squash":
        pixels = resize(image, (size, size), resample)
    elif config.resize == "crop":
        pixels = _crop(image, config.crop_from_px or size, size, resample)
    else:
        pixels = _pad(image, size, resample)
    normalised = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, values in enumerate(_normalised_values(config.mean, config.std)):
        np.take(values, pixels[..., channel], out=normalised[channel])
    return normalised


@lru_cache
def _normalised_values(mean: tuple[float, ...], deviation: tuple[float, ...]) -> Float32:
    """Return what each of the 256 values of a byte becomes in each channel (3, 256)."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    return (values - np.asarray(mean, np.float32)[:, None]) / np.asarray(deviation, np.float32)[:, None]


def _crop(image: Image.Image, shortest: int, size: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """Resize the shortest side to `shortest` and cut out the centre of `size`. Sizes are rounded as in transformers'
    CLIP processor."""
    short, long = sorted(image.size)
    scaled = int(shortest * long / short)
    target = (shortest, scaled) if image.width <= image.height else (scaled, shortest)
    x_offset, top = (target[0] - size) // 2, (target[1] - size) // 2
    # Of an extreme strip only the part that survives the crop is resized: 1 x 50,000,000 must not become 224 x
    # 11,200,000,000. Pillow may then take its two passes in the other order, and clips overshoot between them: equal
    # but for that.
    if scaled > _STRIP * shortest:
        across, down = image.width / target[0], image.height / target[1]  # source pixels per target pixel
        box = (x_offset * across, top * down, (x_offset + size) * across, (top + size) * down)
        return np.asarray(image.resize((size, size), resample, box=box))
    return resize(image, target, resample)[top : top + size, x_offset : x_offset + size]


def naflex_size(size: tuple[int, int], patch: int, most: int) -> tuple[int, int]:
    """Return the width and height to which SigLIP 2 resizes an image: scaled as far as `most` patches allow, each side
    rounded up to a whole patch.

    The scale is found by bisection between the same bounds and to the same precision as in transformers' processor; an
    exact solution would sometimes differ from it by a patch.
    """
    low, high = 1e-6, 100.0

    def patches(length: int, scale: float) -> int:
        return max(1, math.ceil(length * scale / patch))

    while high - low >= 1e-5:
        middle = (low + high) / 2
        if patches(size[0], middle) * patches(size[1], middle) <= most:
            low = middle
        else:
            high = middle
    return patches(size[0], low) * patch, patches(size[1], low) * patch


def _pad(image: Image.Image, size: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """Resize the longest side to `size` and pad with white."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    x_offset, top = (size - width) // 2, (size - height) // 2
    canvas = np.full((size, size, 3), 255, np.uint8)
    canvas[top : top + height, x_offset : x_offset + width] = resize(image, (width, height), resample)
    return canvas
