"""Every format by its first bytes, and what a message says of a file that is none."""

import io

import pytest
from PIL import Image

from model.errors import InvalidInput
from model.images.formats import (
    AVIF,
    BMP,
    HEIC,
    JPEG_XL,
    KNOWN,
    TIFF,
    ImageFormat,
    describe,
    image_format,
    readable_names,
)
from model.images.sources import check_image
from model.types import Limits


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    box = b"ftyp" + major + b"\0\0\0\0" + b"".join(compatible)
    return (len(box) + 4).to_bytes(4, "big") + box


@pytest.mark.parametrize("readable", [known for known in KNOWN if not known.plugin], ids=lambda readable: readable.name)
def test_what_pillow_writes_is_recognised(readable: ImageFormat) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, readable.pillow)
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
        (b"BM and other words", 'it starts with "BM and o"'),
        (b"GIF89a", "it begins as GIF and goes on as something else"),
        (b"  <!doctype html>", "it is an HTML or XML page"),
        (b"%PDF-1.7 ...", 'it starts with "%PDF-1.7"'),
        (b"\x00\x01", "it starts with 00 01"),
    ],
)
def test_a_message_names_what_was_seen(data: bytes, words: str) -> None:
    assert words in describe(data)


@pytest.mark.parametrize(
    ("data", "name", "package"),
    [
        (ftyp(b"heic", b"mif1"), "HEIC", "pi-heif"),
        (b"\xff\x0a....", "JPEG XL", "pillow-jxl-plugin"),
        (ftyp(b"avif"), "AVIF", "a pillow that was built with AVIF"),
    ],
)
def test_a_format_without_its_decoder_is_named(
    data: bytes, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.images.formats._is_installed", lambda module: False)
    reason = f"it is {name}, which this installation cannot read for lack of {package}; send it as JPEG, PNG or WebP"
    assert describe(data) == reason
    assert readable_names() == "JPEG, PNG, WebP, GIF, BMP, TIFF"
    with pytest.raises(InvalidInput, match=f"allowed are JPEG, PNG, WebP, GIF, BMP, TIFF, and {reason}"):
        check_image(data, Limits())


def test_a_decoder_is_looked_for_where_it_would_be() -> None:
    assert not ImageFormat("X", "image/x", "X", module="no_such.module").readable
    assert ImageFormat("X", "image/x", "X", module="PIL.Image").readable
    assert BMP.readable
