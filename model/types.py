"""Inputs and outputs of the model, as plain data that every process can hold. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from model.settings import setting

Float32 = NDArray[np.float32]
Shares = tuple[tuple[float, float], ...]  # of text and image at each tapped layer, of sum 1: `model.contributions`
SHARE_DIGITS = 4  # as they are kept and shown: what a share is good for, some 60 bytes a point of three layers


class Role(StrEnum):
    """The side of retrieval that an input is on. ReT-2 shares one encoder for both; ReT v1 has one for each."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Input:
    """One query or document: text, an encoded image (the file's bytes), or both. At least one is present."""

    text: str | None = None
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one input, checked before any decoding work is done.

    `max_text_chars` bounds memory and tokeniser time; text over the model's token limit but under this one is
    truncated, and the truncation is reported in `Embedding.dropped_tokens`.
    """

    max_text_chars: int = setting(
        100_000, "max_text_chars", "one text; over the model's token limit it is truncated", gt=0
    )
    max_image_bytes: int = setting(20 * 2**20, "max_image_bytes", "one image file", gt=0)
    max_image_px: int = setting(50_000_000, "max_image_px", "width times height of one image", gt=0)


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of one input: decoding and tokenising, waiting, and the forward of its batch."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    encode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """The result of one forward of a batch: vectors (B, D) of unit length; shares (B, L, 2) unless the model has no
    gates; latents (B, K, D), each of unit length, from a model that has several."""

    vectors: Float32
    shares: Float32 | None = None
    latents: Float32 | None = None

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """Join the parts of one batch, in order."""
        vectors, shares, latents = zip(*((part.vectors, part.shares, part.latents) for part in parts), strict=True)
        return cls(np.concatenate(vectors), _joined(shares), _joined(latents))


def _joined(parts: Sequence[Float32 | None]) -> Float32 | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None


@dataclass(frozen=True, slots=True)
class Embedding:
    """One input's vector, (D,) float32 of unit length; the fingerprint of the model that made it, what it cost and
    where the time went.

    `dropped_tokens` of the text were over the model's limit. `shares` is None from a model without gates, `latents` (K,
    D) from one that gives a single vector.
    """

    vector: Float32
    fingerprint: str
    dropped_tokens: int = 0
    cost: int = 0
    timing: Timing = Timing()
    shares: Shares | None = None
    latents: Float32 | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The facts that a client may need about the model behind an encoder."""

    name: str
    fingerprint: str
    dimensions: int
    max_text_tokens: int
    image_size_px: int
    latents: int = 1  # vectors of one input
    commit: str | None = None  # of a hub model
    modalities: tuple[str, ...] = ("text", "image")  # that it embeds, alone and together
    precision: str = "float32"  # of weights and activations
    weighable: bool = False  # an embedding of text and image is the weighted sum of those of each
    # Lengths to which its embeddings may be cut, because it was trained so that their beginnings are embeddings too.
    shorter: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input ready for the forward: token ids and pixels, either absent when the modality is.

    `cost` is the number of tower positions that the forward will work on: image patches plus text tokens. It is what
    batches and queues are bounded by (docs/promises.md#promise-5).
    """

    role: Role
    tokens: NDArray[np.int64] | None  # (T,)
    pixels: Float32 | None  # (3, S, S)
    cost: int
    dropped_tokens: int = 0

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """What rows that go together have in common: role, whether there is an image, whether there is text."""
        return self.role.value, self.pixels is not None, self.tokens is not None
