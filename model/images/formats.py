"""The image formats that ret2 knows: how a file begins, its media type, and whether it can be read. No decoding, no
Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

_HEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """`pillow` is Pillow's name of the format; `browser_safe` is what a browser shows and cannot run.

    `module` has the decoder where an installation may lack it, and `package` is what to install then. A `plugin` is not
    Pillow's own: it runs in a child process alone.
    """

    name: str
    media_type: str
    pillow: str
    browser_safe: bool = False
    module: str | None = None
    package: str | None = None
    plugin: bool = False

    @property
    def readable(self) -> bool:
        return self.module is None or _is_installed(self.module)


@cache
def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


JPEG = ImageFormat("JPEG", "image/jpeg", "JPEG", browser_safe=True)
PNG = ImageFormat("PNG", "image/png", "PNG", browser_safe=True)
WEBP = ImageFormat("WebP", "image/webp", "WEBP", browser_safe=True)
GIF = ImageFormat("GIF", "image/gif", "GIF", browser_safe=True)
AVIF = ImageFormat(
    "AVIF", "image/avif", "AVIF", browser_safe=True, module="PIL._avif", package="a pillow that was built with AVIF"
)
BMP = ImageFormat("BMP", "image/bmp", "BMP")
TIFF = ImageFormat("TIFF", "image/tiff", "TIFF")
HEIC = ImageFormat("HEIC", "image/heic", "HEIF", module="pi_heif", package="pi-heif", plugin=True)
JPEG_XL = ImageFormat("JPEG XL", "image/jxl", "JXL", module="pillow_jxl", package="pillow-jxl-plugin", plugin=True)

KNOWN = (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIC, JPEG_XL)

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"II+\x00", TIFF),  # BigTIFF
    (b"MM\x00+", TIFF),
    (b"\xff\x0a", JPEG_XL),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", JPEG_XL),
)
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
# ISO base media files name their brands in the first box: the main one, a version, and compatible ones.
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


def image_format(data: bytes) -> ImageFormat | None:
    """Return the format that the file's first bytes name, None when they are no image's."""
    for magic, known_format in _MAGIC:
        if data.startswith(magic):
            return known_format
    # Two letters begin many a text: what follows must be a header of one of the sizes that there are.
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return BMP
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        if brands & _AVIF_BRANDS:
            return AVIF
        if brands & _HEIC_BRANDS:
            return HEIC
    return None


def readable_names() -> str:
    """Return the names of the formats that this installation reads, for messages."""
    return ", ".join(known_format.name for known_format in KNOWN if known_format.readable)


def describe(data: bytes) -> str:
    """Return what a file is that is not read: its format, a page, or its first bytes as text or in hexadecimal."""
    known_format = image_format(data)
    if known_format is not None and known_format.readable:
        return f"it begins as {known_format.name} and goes on as something else"
    if known_format is not None:
        return (
            f"it is {known_format.name}, which this installation cannot read for lack of {known_format.package}; "
            "send it as JPEG, PNG or WebP"
        )
    head = data[:_HEAD_BYTES].lstrip()
    if head.startswith(b"<"):
        return "it is an HTML or XML page"
    start = data[:8]
    readable = start.isascii() and start.decode().isprintable()
    return f'it starts with "{start.decode()}"' if readable else f"it starts with {start.hex(' ')}"


def _brands(data: bytes) -> set[bytes]:
    size = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return {data[8:12], *(data[place : place + 4] for place in range(16, size - 3, 4))}
