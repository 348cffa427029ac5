"""Encoded images to upright RGB, whatever the file: limits before decoding, one clear error for anything that is not an image. No torch."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import InvalidInput, TooLarge
from model.types import Limits

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
    RuntimeError,  # the AVIF decoder's
)
_PILLOW_MAX_PX = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow raises above twice what it warns of
_STRIP_PX = 2**18  # of float64, in the few copies that numpy makes of them: some 8 MB at a time


def decode_image(data: bytes, limits: Limits, at_least_px: int | None = None) -> Image.Image:
    """The file's first frame, EXIF orientation applied, alpha over white, 8-bit RGB. Thread-safe.

    A JPEG may come smaller, by 2, 4 or 8, as long as both its sides keep `at_least_px`: decoding skips what resizing would throw away.

    Raises `TooLarge` over `max_image_bytes` or `max_image_px` (both before any pixel is decoded), else `InvalidInput`.
    """
    check_size(data, limits)
    image = _open(data, limits)
    width, height = image.size
    if width * height > limits.max_image_px:
        raise _too_many(width * height, f" ({width} x {height})", limits.max_image_px)
    try:
        if at_least_px is not None and image.format == "JPEG":
            image.draft(None, (at_least_px, at_least_px))  # None keeps the mode
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
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


def first_bytes(data: bytes) -> str:
    """As a message shows them: the text that they are, or else in hexadecimal."""
    start = data[:8]
    readable = start.isascii() and start.decode().isprintable()
    return f'"{start.decode()}"' if readable else start.hex(" ")


def _open(data: bytes, limits: Limits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        start = data[:64].lstrip().lower()
        description = "an HTML or XML page" if start.startswith(b"<") else f"it starts with {first_bytes(data)}"
        raise InvalidInput(
            f"not an image of a supported format ({', '.join(FORMATS)}): {description}", field="image"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow refuses by a limit of its own before ours is asked. What it says first is the number of pixels.
        px = re.search(r"\d+", str(error))
        raise _too_many(int(px[0]) if px else None, "", min(limits.max_image_px, _PILLOW_MAX_PX)) from error
    except _BROKEN as error:
        raise InvalidInput(f"image cannot be opened: {error}", field="image") from error


def _too_many(px: int | None, shape: str, limit: int) -> TooLarge:
    has = "too many" if px is None else px
    return TooLarge(f"image has {has} px{shape}, limit is {limit}", field="image", value=px, limit=limit)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits; 32-bit integers and floats are clipped to the range their largest value suggests.

    Strip by strip, beside the image itself: as float64 a whole one is many times the file's own pixels.
    """
    largest = max((values.max() for _, values in _strips(image)), default=0.0)
    scale = (
        255 / 65535
        if image.mode.startswith("I;16") or largest > 255
        else (255.0 if 0 < largest <= 1 and image.mode == "F" else 1.0)
    )
    grey = Image.new("L", image.size)
    for top, values in _strips(image):
        grey.paste(Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8)), (0, top))
    return grey


def _strips(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """(the first row, some rows (rows, W)) from the top down; what is no finite number is 0."""
    rows = max(1, _STRIP_PX // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, np.nan_to_num(np.asarray(strip, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
