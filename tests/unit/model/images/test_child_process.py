"""Suspicious files are decoded in a child process that is bounded, and that takes nobody along."""

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from model.errors import DependencyUnavailable, InvalidInput, TooLarge
from model.images import child_process as image_child
from model.images.decoding import decode_image
from model.types import Limits


def picture(kind: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (20, 60, 220)).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[image_child._Child]]:
    """The children that a test starts."""
    started: list[image_child._Child] = []

    class Recorded(image_child._Child):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    monkeypatch.setattr(image_child, "_Child", Recorded)
    monkeypatch.setattr(image_child, "_children", image_child._Children())
    yield started
    image_child._children.close()


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_the_same_pixels_as_without_a_child(kind: str, children: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(kind)
    by_child = decode_image(data, Limits())
    assert len(children) == 1
    monkeypatch.setattr("model.images.decoding.is_suspicious", lambda image: False)
    assert by_child.tobytes() == decode_image(data, Limits()).tobytes()


def test_a_child_serves_many_images_and_their_failures(children: list[Any]) -> None:
    for side in (5, 70, 6):
        assert decode_image(picture("TIFF", (side, side)), Limits()).size == (side, side)
        with pytest.raises(InvalidInput):
            decode_image(picture("TIFF", compression="tiff_lzw")[:-200], Limits())
    assert len(children) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_no_child_for_formats_that_are_bounded_by_their_header(kind: str, children: list[Any]) -> None:
    assert decode_image(picture(kind), Limits()).size == (64, 48)
    assert children == []


def test_a_child_for_a_large_webp_which_would_keep_the_lock(children: list[Any]) -> None:
    assert decode_image(picture("WEBP", (2001, 2000), method=0), Limits()).size == (2001, 2000)
    assert len(children) == 1
    assert decode_image(picture("WEBP", (2000, 2000), method=0), Limits()).size == (2000, 2000)
    assert children[0].images == 1


def test_a_child_over_its_time_is_killed_and_the_next_file_is_read(
    children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_child, "_TIMEOUT_S", 0.01)
    with pytest.raises(InvalidInput, match=r"takes longer than 0\.01 s to decode"):
        decode_image(picture("TIFF"), Limits())
    monkeypatch.setattr(image_child, "_TIMEOUT_S", 20.0)
    assert decode_image(picture("TIFF"), Limits()).size == (64, 48)
    assert len(children) == 2
    assert not children[0].usable


def with_decoder(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Have children run `body` in place of the decoder."""
    code = f"from model.images import child_process as child\ndef decoded(*_):\n    {body}\nchild._decoded = decoded\nchild._main()"
    monkeypatch.setattr(image_child, "_COMMAND", (sys.executable, "-c", code))


@pytest.mark.parametrize("body", ["import os; os.abort()", "import os; os._exit(3)"])
def test_a_child_that_crashes_fails_its_image_alone(
    body: str, children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        with_decoder(broken, body)
        with pytest.raises(InvalidInput, match="its decoder needs more than 10 s or 2 GiB, or crashed"):
            decode_image(picture("TIFF"), Limits())
        assert len(children) == 2  # the replacement waits already
        image_child._children.close()
    assert decode_image(picture("TIFF"), Limits()).size == (64, 48)


def test_a_child_that_dies_is_logged_with_its_end_and_its_last_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_decoder(monkeypatch, "import os, sys; print('no more', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)")
    with pytest.raises(InvalidInput):
        decode_image(picture("TIFF"), Limits())
    (died,) = [record for record in caplog.records if record.message == "image decoder died"]
    assert (vars(died)["ending"], vars(died)["last_words"]) == ("signal 9 (SIGKILL)", "no more")


def test_a_child_that_cannot_start_is_not_the_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_child, "_COMMAND", ("/nonexistent/python",))
    with pytest.raises(DependencyUnavailable, match="decodes images cannot start: No such file or directory"):
        decode_image(picture("TIFF"), Limits())


def test_a_child_that_died_while_it_was_idle_is_replaced(children: list[Any]) -> None:
    assert decode_image(picture("TIFF"), Limits()).size == (64, 48)
    children[0]._process.kill()
    children[0]._process.wait()
    assert decode_image(picture("TIFF"), Limits()).size == (64, 48)
    assert len(children) == 2


def test_a_decoder_that_takes_too_much_memory_fails(children: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with_decoder(monkeypatch, "return bytearray(3 * 2**30)")
    with pytest.raises(InvalidInput, match=r"its decoder needs more than 2 GiB"):
        decode_image(picture("TIFF"), Limits())
    assert len(children) == 1


def test_a_decoder_that_takes_too_much_time_is_ended_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with_decoder(monkeypatch, "child._allow_cpu_s(0)\n    while True: pass")
    with pytest.raises(InvalidInput, match="its decoder needs more than 10 s or 2 GiB, or crashed"):
        decode_image(picture("TIFF"), Limits())


def test_threads_have_children_of_their_own(children: list[Any]) -> None:
    sizes = [(side, side) for side in range(1, 13)]
    with ThreadPoolExecutor(3) as threads:
        decoded = list(threads.map(lambda size: decode_image(picture("TIFF", size), Limits()).size, sizes))
    assert decoded == sizes
    assert len(children) <= 3


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
    with pytest.raises(TooLarge, match="image has more than 100 JPEG scans"):
        decode_image(many, Limits())
    assert decode_image(data, Limits()).size == (64, 48)


def test_markers_in_profiles_and_behind_the_image_are_no_scans() -> None:
    """A telephone appends seconds of film, whose bytes are as good as random."""
    data = picture("JPEG", icc_profile=b"\xff\xda" * 20_000)
    assert decode_image(data + b"\xff\xda" * 200, Limits()).size == (64, 48)
