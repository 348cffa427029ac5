"""Every format by its first bytes, and what a message says of a file that is none."""

import io

import pytest
from PIL import Image

from model.images.formats import AVIF, HEIC, JPEG_XL, READABLE, TIFF, describe, image_format


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    box = b"ftyp" + major + b"\0\0\0\0" + b"".join(compatible)
    return (len(box) + 4).to_bytes(4, "big") + box


@pytest.mark.parametrize("readable", READABLE, ids=lambda readable: readable.name)
def test_what_pillow_writes_is_recognised(readable: object) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, readable.pillow)  # type: ignore[attr-defined]
    assert image_format(file.getvalue()) is readable


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ftyp(b"avif", b"mif1"), AVIF),
        (ftyp(b"mif1", b"avif", b"miaf"), AVIF),
        (ftyp(b"miaf", b"mif1", b"avif"), AVIF),
        (ftyp(b"heic", b"mif1"), HEIC),
        (ftyp(b"mif1", b"heic"), HEIC),
        (ftyp(b"isom", b"mp42"), None),
        (b"II+\x00\x08\x00", TIFF),
        (b"MM\x00+", TIFF),
        (b"\xff\x0a", JPEG_XL),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", JPEG_XL),
        (b"", None),
        (b"%PDF-1.7", None),
    ],
)
def test_brands_and_magic_numbers(data: bytes, expected: object) -> None:
    assert image_format(data) is expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ftyp(b"heic", b"mif1"), "it is HEIC, which this installation cannot read; send it as JPEG"),
        (b"\xff\x0a....", "it is JPEG XL"),
        (b"  <!doctype html>", "it is an HTML or XML page"),
        (b"%PDF-1.7 ...", 'it starts with "%PDF-1.7"'),
        (b"\x00\x01", "it starts with 00 01"),
    ],
)
def test_a_message_names_what_was_seen(data: bytes, words: str) -> None:
    assert words in describe(data)
