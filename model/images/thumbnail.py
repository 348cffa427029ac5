"""Small copies of pictures: JPEG, upright, without metadata. Drawn in a child process, whatever the format."""

from __future__ import annotations

import io

from PIL import Image

from model.images.child_process import thumbnail_in_child
from model.images.decoding import check_size, decode_alone
from model.images.formats import image_format
from model.types import Limits

# Pillow's advice for JPEG is 75 to 95; 85 is about 45 kB for a photograph of 512 px.
_QUALITY = 85


def thumbnail(data: bytes, side_px: int, limits: Limits) -> bytes:
    """Return a JPEG whose longer side is at most `side_px`, or the file itself where that is no larger either way and
    every browser shows it.

    Blocks. Raises `InvalidInput` and `TooLarge` as `decode_image` does.
    """
    check_size(data, limits)
    return thumbnail_in_child(data, limits, side_px) or data


def draw_thumbnail(data: bytes, limits: Limits, side_px: int) -> bytes:
    """Return the JPEG, or nothing where the file itself serves. For the child process."""
    image = decode_alone(data, limits, at_least_px=side_px)
    fits = max(image.size) <= side_px
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    file_format = image_format(data)
    serves = fits and file_format is not None and file_format.browser_safe and len(data) <= file.tell()
    return b"" if serves else file.getvalue()
