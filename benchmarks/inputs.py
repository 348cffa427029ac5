"""What every server and every model is given: texts of one length, and pictures as hard to decode as photographs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from model.types import Input, Role

TEXT_TOKENS = 16  # start and end included
IMAGE_PX = (500, 375)
_QUALITY = 85

# One token each in CLIP's vocabulary.
_WORDS = (
    "a the of in on with and red blue green white black old new small big dog cat house car tree river mountain street city man "
    "woman child boat train bridge church flower bird horse table garden beach sky night summer winter photo painting market window"
)
WORDS = tuple(_WORDS.split())


class Kind(StrEnum):
    """What an input carries."""

    TEXT = "text"
    IMAGE = "image"
    BOTH = "text+image"


def items(kind: Kind, count: int) -> list[Input]:
    """Distinct inputs of one kind."""
    words: Sequence[str | None] = texts(count) if kind is not Kind.IMAGE else [None] * count
    pictures: Sequence[bytes | None] = jpegs(count) if kind is not Kind.TEXT else [None] * count
    return [Input(*pair) for pair in zip(words, pictures, strict=True)]


def mixed(texts: int, images: int, both: int) -> list[Input]:
    """So many of each kind."""
    return [*items(Kind.TEXT, texts), *items(Kind.IMAGE, images), *items(Kind.BOTH, both)]


def texts(count: int, seed: int = 0) -> list[str]:
    """Distinct texts of `TEXT_TOKENS` tokens each."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, TEXT_TOKENS - 2)) for _ in range(count)]


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    """Distinct pictures: soft gradients, a few edges, and the grain that makes a photograph's file as large as it is."""
    return [_jpeg(seed, number) for number in range(count)]


@cache
def _jpeg(seed: int, number: int) -> bytes:
    draw = np.random.default_rng((seed, number))
    width, height = IMAGE_PX
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.empty((height, width, 3))
    for channel in range(3):
        a, b, c, phase = draw.uniform(-1, 1, 4)
        pixels[..., channel] = 128 + 60 * (a * x + b * y) + 40 * np.sin(6 * (x * c + y) + 3 * phase)
    for _ in range(12):
        left, top = draw.integers(0, width), draw.integers(0, height)
        pixels[top : top + draw.integers(20, 160), left : left + draw.integers(20, 160)] += draw.uniform(-60, 60, 3)
    pixels += draw.normal(0, 6, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


# --- the bodies of requests, one input each


def ret2_bodies(items: Sequence[Input], role: Role = Role.QUERY) -> list[bytes]:
    """POST /encode."""
    return [json.dumps({"role": role, "inputs": [_wire(item)]}).encode() for item in items]


def infinity_bodies(items: Sequence[Input], model: str) -> list[bytes]:
    """POST /embeddings of infinity: a text, or an image as a data URI. It has no inputs of both."""
    bodies = []
    for item in items:
        if item.text is not None and item.image is not None:
            raise ValueError("infinity takes a text or an image")
        modality = "image" if item.image else "text"
        content = f"data:image/jpeg;base64,{_base64(item.image)}" if item.image else item.text
        bodies.append(json.dumps({"model": model, "input": [content], "modality": modality}).encode())
    return bodies


def _wire(item: Input) -> dict[str, Any]:
    text = {} if item.text is None else {"text": item.text}
    return text if item.image is None else {**text, "image": {"base64": _base64(item.image)}}


def _base64(image: bytes) -> str:
    return base64.b64encode(image).decode()
