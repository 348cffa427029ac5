"""What stands beside the pixels never decides whether a picture can be read."""

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from model.errors import InvalidInput
from model.images.decoding import decode_image
from model.types import Limits

BLUE = (20, 60, 220)
SIZE = (64, 48)


def picture(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE, BLUE).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks: bytes) -> bytes:
    """The side chunks stand behind IHDR."""
    plain = picture("PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    plain = picture("JPEG", quality=95)
    inserted = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments
    )
    return plain[:2] + inserted + plain[2:]


def exif(orientation: int, *entries: tuple[int, int, int, bytes]) -> bytes:
    """A TIFF header with IFD entries of (tag, type, count, four bytes), the orientation first."""
    rows = [(0x0112, 3, 1, struct.pack("<HH", orientation, 0)), *entries]
    body = b"".join(struct.pack("<HHI", *row[:3]) + row[3] for row in rows)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + body + b"\0\0\0\0"


SIDE_CHUNKS = {
    "short gamma": chunk(b"gAMA", b"\0\0"),
    "short resolution": chunk(b"pHYs", b"\0\0\0"),
    "empty sRGB": chunk(b"sRGB", b""),
    "odd chromaticities": chunk(b"cHRM", b"\0" * 5),
    "short transparency": chunk(b"tRNS", b"\0"),
    "short animation": chunk(b"acTL", b"\0\0"),
    "text of two megabytes": chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * 2**21)),
    "international text of two megabytes": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"y" * 2**21)),
    "profile of two megabytes": chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"z" * 2**21)),
    "profile of an unknown method": chunk(b"iCCP", b"icc\0\7" + zlib.compress(b"z" * 200)),
    "text with a wrong checksum": chunk(b"tEXt", b"Title\0words", checksum=1),
    "EXIF that is none": chunk(b"eXIf", b"garbage"),
}


@pytest.mark.parametrize("name", SIDE_CHUNKS)
def test_side_chunks_of_a_png_are_skipped(name: str) -> None:
    image = decode_image(png_with(SIDE_CHUNKS[name]), Limits())
    assert (image.size, image.getpixel((5, 5))) == (SIZE, BLUE)


@pytest.mark.parametrize(
    "entries",
    [
        (),
        ((0x011A, 11, 1, b"\0\0\xc0\x7f"),),  # a resolution that is not a number
        ((0x011A, 5, 1, struct.pack("<I", 0xFFFFFF)),),  # one that lies beyond the file
        ((0x0100, 2, 4, b"wide"),),  # a width in words
        ((0x0131, 8, 1, struct.pack("<hh", -5, 0)),),  # a negative short
    ],
)
def test_odd_exif_turns_the_picture_or_is_skipped(entries: tuple[tuple[int, int, int, bytes], ...]) -> None:
    image = decode_image(jpeg_with((0xE1, exif(6, *entries))), Limits())
    assert image.size == (SIZE[1], SIZE[0])


@pytest.mark.parametrize("body", [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_exif_that_cannot_be_read_is_skipped(body: bytes) -> None:
    assert decode_image(jpeg_with((0xE1, body)), Limits()).size == SIZE


def test_a_short_jfif_header_is_skipped() -> None:
    plain = picture("JPEG")
    length = struct.unpack_from(">H", plain, 4)[0]
    short = plain[:2] + b"\xff\xe0\0\x07JFIF\0" + plain[4 + length :]
    assert decode_image(short, Limits()).size == SIZE


@pytest.mark.parametrize("brand", [b"mif1", b"miaf"])
def test_avif_under_the_brand_of_its_family(brand: bytes) -> None:
    plain = picture("AVIF")
    box = plain[: int.from_bytes(plain[:4], "big")]
    assert b"avif" in box[16:], "the compatible brands name it too"
    assert decode_image(plain[:8] + brand + plain[12:], Limits()).size == SIZE


@pytest.mark.parametrize(
    "cut",
    [lambda data: data[:40], lambda data: data[:33] + data[-12:], lambda data: data.replace(b"IDAT", b"IDAX")],
    ids=["cut", "no pixels", "pixels under another name"],
)
def test_broken_pixels_stay_broken(cut: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidInput, match="image cannot be"):
        decode_image(cut(picture("PNG")), Limits())
