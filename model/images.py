"""Encoded images to upright RGB, whatever the file: limits before decoding, one clear error for anything that is not an image. No torch."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import InvalidInput, TooLarge
from model.inputs import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    OverflowError,
)


def decode_image(data: bytes, limits: Limits, at_least_px: int | None = None) -> Image.Image:
    """The file's first frame, EXIF orientation applied, alpha over white, 8-bit RGB. Thread-safe.

    A JPEG may come smaller, by 2, 4 or 8, as long as both its sides keep `at_least_px`: decoding skips what resizing would throw away.

    Raises `TooLarge` over `max_image_bytes` or `max_image_px` (both before any pixel is decoded), else `InvalidInput`.
    """
    check_size(data, limits)
    image = _open(data, limits)
    width, height = image.size
    if width * height > limits.max_image_px:
        raise TooLarge(
            f"image has {width * height} px ({width} x {height}), limit is {limits.max_image_px}",
            field="image",
            value=width * height,
            limit=limits.max_image_px,
        )
    try:
        if at_least_px is not None and image.format == "JPEG":
            image.draft(None, (at_least_px, at_least_px))  # None keeps the mode
        image.load()
        return _rgb(ImageOps.exif_transpose(image))
    except _BROKEN as error:
        raise InvalidInput(f"image cannot be decoded: {error}", field="image") from error


def check_size(data: bytes, limits: Limits) -> None:
    """The checks that cost nothing: an empty file, a file over the byte limit."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)", field="image", value=0)
    if len(data) > limits.max_image_bytes:
        raise TooLarge(
            f"image has {len(data)} bytes, limit is {limits.max_image_bytes}",
            field="image",
            value=len(data),
            limit=limits.max_image_bytes,
        )


def _open(data: bytes, limits: Limits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        start = data[:64].lstrip().lower()
        what = "an HTML or XML page" if start.startswith(b"<") else f"it starts with {data[:8]!r}"
        raise InvalidInput(
            f"not an image of a supported format ({', '.join(FORMATS)}): {what}", field="image"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow refuses by a limit of its own, above which ours is not asked.
        raise TooLarge(
            f"image has too many pixels, limit is {limits.max_image_px}: {error}",
            field="image",
            limit=limits.max_image_px,
        ) from error
    except _BROKEN as error:
        raise InvalidInput(f"image cannot be opened: {error}", field="image") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits; 32-bit integers and floats are clipped to the range their largest value suggests."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = values.max(initial=0.0)
    scale = (
        255 / 65535
        if image.mode.startswith("I;16") or largest > 255
        else (255.0 if 0 < largest <= 1 and image.mode == "F" else 1.0)
    )
    return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8))
