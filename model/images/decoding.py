"""Encoded images to upright RGB, whatever the file: limits before decoding, one clear error for anything that is not an
image. No torch."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from model.errors import InvalidInput, TooLarge
from model.images.child_process import decode_in_child, is_suspicious
from model.images.formats import KNOWN, ImageFormat, describe, image_format, readable_names
from model.images.jpeg_scans import count_scans
from model.images.metadata import only_pixels, orientation
from model.images.plugins import load_plugin
from model.types import Limits

# What Pillow opens in this process. Formats of plugins are opened in a child process alone.
FORMATS = tuple(known_format.pillow for known_format in KNOWN if known_format.readable and not known_format.plugin)
# libjpeg reads the whole image once for each scan: 7,000 x 7,000 px take 4 ms for an empty one of 64 bytes.
_MAX_SCANS = 100
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PILLOW_MAX_PX = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow raises above twice what it warns of
_STRIP_PX = 2**18  # of float64, in the few copies that numpy makes of them: some 8 MB at a time


def decode_image(data: bytes, limits: Limits, at_least_px: int | None = None) -> Image.Image:
    """Decode the first frame of a file to 8-bit RGB, with its EXIF orientation applied and alpha over white.
    Thread-safe.

    A JPEG may be decoded at a half, a quarter or an eighth of its size as long as both sides keep `at_least_px`;
    decoding then skips what resizing would discard.

    Raises `TooLarge` over `max_image_bytes` or `max_image_px`, both before any pixel is decoded, else `InvalidInput`.
    """
    check_size(data, limits)
    if _plugin(data) is not None:
        return decode_in_child(data, limits, at_least_px)
    return second_try(data, lambda pixels: _decode(pixels, limits, at_least_px))


def decode_alone(data: bytes, limits: Limits, at_least_px: int | None = None) -> Image.Image:
    """Decode any format in this process, within the same limits. For a child process, which may die of it."""
    return second_try(data, lambda pixels: decode_opened(open_any(pixels, limits), at_least_px))


def open_any(data: bytes, limits: Limits) -> Image.Image:
    """Open a file of any format in this process, and check its header against the limits. For a child process."""
    plugin = _plugin(data)
    if plugin is None:
        image = open_image(data, limits)
    else:
        load_plugin(plugin)
        image = open_image(data, limits, (plugin.pillow,))
    _check_work(image, data, limits)
    return image


def second_try(data: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image:
    """Decode or open, and where that fails once more without what stands beside the pixels, which may be broken:
    browsers ignore it."""
    try:
        return decode(data)
    except InvalidInput:
        pixels_alone = only_pixels(data)
        if pixels_alone is None:
            raise
        return decode(pixels_alone)


def _decode(data: bytes, limits: Limits, at_least_px: int | None) -> Image.Image:
    image = open_image(data, limits)
    _check_work(image, data, limits)
    if is_suspicious(image):
        return decode_in_child(data, limits, at_least_px)
    return decode_opened(image, at_least_px)


def _plugin(data: bytes) -> ImageFormat | None:
    file_format = image_format(data)
    return file_format if file_format is not None and file_format.plugin and file_format.readable else None


def decode_opened(image: Image.Image, at_least_px: int | None) -> Image.Image:
    """Decode an opened image in this process. Whatever a decoder raises is the file's fault."""
    try:
        if at_least_px is not None and image.format == "JPEG":
            image.draft(None, (at_least_px, at_least_px))  # None keeps the mode
        image.load()
        return _upright(_rgb(image), orientation_of(image))
    except Exception as error:
        raise InvalidInput(f"image cannot be decoded: {error}", field="image") from error


def _check_work(image: Image.Image, data: bytes, limits: Limits) -> None:
    """Refuse what would take more memory or time than its size says: by the header, before any pixel is decoded."""
    width, height = image.size
    if width * height > limits.max_image_px:
        raise _too_many(width * height, f" ({width} x {height})", limits.max_image_px)
    if image.format in ("JPEG", "MPO") and (scans := count_scans(data, _MAX_SCANS)) > _MAX_SCANS:
        raise TooLarge(f"image has more than {_MAX_SCANS} JPEG scans", field="image", value=scans, limit=_MAX_SCANS)
    if image.format == "TIFF":
        tile_px = _tag(image, _TIFF_TILE_WIDTH) * _tag(image, _TIFF_TILE_LENGTH)
        if tile_px > limits.max_image_px:
            raise _too_many(tile_px, " in a tile", limits.max_image_px)


def _tag(image: Image.Image, number: int) -> int:
    value = getattr(image, "tag_v2", {}).get(number, 0)
    return value if isinstance(value, int) else 0


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  broken metadata beside good pixels is ignored, as browsers do
        value = orientation(image.info.get("exif", b""))
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def check_size(data: bytes, limits: Limits) -> None:
    """Check what costs nothing: raise an error for an empty file and for a file over the byte limit."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)", field="image", value=0)
    if len(data) > limits.max_image_bytes:
        raise TooLarge(
            f"image has {len(data)} bytes, limit is {limits.max_image_bytes}",
            field="image",
            value=len(data),
            limit=limits.max_image_bytes,
        )


def open_image(data: bytes, limits: Limits, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open a file by Pillow's names of the formats it may have."""
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise InvalidInput(
            f"image cannot be read: allowed are {readable_names()}, and {describe(data)}", field="image"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow refuses by a limit of its own before ours is asked. What it says first is the number of pixels.
        px = re.search(r"\d+", str(error))
        raise _too_many(int(px[0]) if px else None, "", min(limits.max_image_px, _PILLOW_MAX_PX)) from error
    except Exception as error:
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
    """Convert 16-bit grey to 8 bits. 32-bit integers and floats are clipped to the range that their largest value
    suggests.

    It works in strips, because a whole image as float64 takes many times the memory of the file's own pixels.
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
    """Yield strips of an image from the top down: the number of the first row, and rows (rows, W). Values that are not
    finite become 0."""
    rows = max(1, _STRIP_PX // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, np.nan_to_num(np.asarray(strip, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
