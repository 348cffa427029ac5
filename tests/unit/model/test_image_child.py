"""Suspicious files are decoded in a child process that is bounded, and that takes nobody along."""

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import pytest
from PIL import Image

from model import image_child
from model.errors import InvalidInput, TooLarge
from model.images import decode_image
from model.types import Limits


def picture(kind: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (20, 60, 220)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_the_same_pixels_as_without_a_child(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(kind)
    children: list[Any] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: children.append(args) or run(*args, **options))
    by_child = decode_image(data, Limits())
    assert len(children) == 1
    monkeypatch.setattr("model.images.is_suspicious", lambda image: False)
    assert by_child.tobytes() == decode_image(data, Limits()).tobytes()
    assert len(children) == 1


def test_no_child_for_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: pytest.fail("a child was started"))
    assert decode_image(picture("JPEG"), Limits()).size == (64, 48)


def test_a_child_over_its_time_is_killed_and_the_next_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_child, "_TIMEOUT_S", 0.01)
    with pytest.raises(InvalidInput, match=r"takes longer than 0\.01 s to decode"):
        decode_image(picture("TIFF"), Limits())
    monkeypatch.undo()
    assert decode_image(picture("TIFF"), Limits()).size == (64, 48)


@pytest.mark.parametrize("code", ["import os; os.abort()", "import sys; sys.exit(3)"])
def test_a_child_that_crashes_fails_its_image_alone(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _command, **options: run([sys.executable, "-c", code], **options))
    with pytest.raises(InvalidInput, match="its decoder needs more than 10 s or 2 GiB, or crashed"):
        decode_image(picture("TIFF"), Limits())


def test_a_decoder_that_takes_too_much_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    code = image_child.__name__
    eat = f"import {code} as child; child._decoded = lambda *_: bytearray(3 * 2**30); child._main()"
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _command, **options: run([sys.executable, "-c", eat], **options))
    with pytest.raises(InvalidInput, match=r"image cannot be decoded"):
        decode_image(picture("TIFF"), Limits())


def test_a_broken_file_says_why() -> None:
    data = picture("TIFF", compression="tiff_lzw")
    with pytest.raises(InvalidInput, match="image cannot be"):
        decode_image(data[: len(data) // 2], Limits())


def tiff_with_tile(side: int) -> bytes:
    """One pixel, in one deflated tile of side x side pixels."""
    tile = zlib.compress(bytes(16))
    entries = [
        (256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, len(tile)),
    ]  # fmt: skip
    start = 8 + len(tile) + len(tile) % 2
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + tile.ljust(start - 8, b"\0") + directory


def test_tiles_are_bounded_as_the_image_is() -> None:
    with pytest.raises(TooLarge, match="image has 676000000 px in a tile, limit is 50000000"):
        decode_image(tiff_with_tile(26_000), Limits())


def test_scans_of_a_jpeg_are_bounded() -> None:
    """The scans of a progressive JPEG may be empty: each costs 64 bytes and a pass over the whole image."""
    data = picture("JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    last = data[scan:-2]
    many = data[:-2] + last * 200 + data[-2:]
    with pytest.raises(TooLarge, match=r"image has 2\d\d JPEG scans, limit is 100"):
        decode_image(many, Limits())
    assert decode_image(data, Limits()).size == (64, 48)
