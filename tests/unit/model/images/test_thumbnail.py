"""Small copies, drawn in a child process."""

import io
from pathlib import Path

import pytest
from PIL import Image

from model.errors import InvalidInput, TooLarge
from model.images import child_process
from model.images.formats import KNOWN, ImageFormat
from model.images.thumbnail import thumbnail
from model.types import Limits

WITHOUT_PLUGINS = [known for known in KNOWN if not known.plugin]


def noise(size: tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("known", WITHOUT_PLUGINS, ids=lambda known: known.name)
def test_every_format(known: ImageFormat) -> None:
    image = Image.open(io.BytesIO(thumbnail(noise((200, 100), known.pillow), 64, Limits())))
    assert (image.format, image.size) == ("JPEG", (64, 32))


def test_heic() -> None:
    data = (Path(__file__).parents[3] / "support" / "turned.heic").read_bytes()
    image = Image.open(io.BytesIO(thumbnail(data, 32, Limits())))
    assert (image.format, image.size) == ("JPEG", (24, 32))


@pytest.mark.parametrize(("kind", "serves"), [("PNG", True), ("GIF", True), ("BMP", False), ("TIFF", False)])
def test_a_small_file_serves_itself_where_browsers_show_it(kind: str, serves: bool) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, kind)
    small = thumbnail(file.getvalue(), 64, Limits())
    assert len(file.getvalue()) < 400, "smaller than any JPEG"
    assert Image.open(io.BytesIO(small)).format == (kind if serves else "JPEG")


def test_a_jpeg_is_decoded_in_the_child_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_COMMAND", ("false",))
    children = child_process._Children()
    monkeypatch.setattr(child_process, "_children", children)
    with pytest.raises(InvalidInput, match="its decoder needs more than"):
        thumbnail(noise((200, 100), "JPEG"), 64, Limits())
    children.close()


def test_broken_side_chunks_do_no_harm() -> None:
    data = noise((200, 100))
    chunk = b"\0\0\0\x04iCCP????\0\0\0\0"
    broken = data[:33] + chunk + data[33:]
    assert Image.open(io.BytesIO(thumbnail(broken, 64, Limits()))).size == (64, 32)


def test_limits_and_what_is_no_image() -> None:
    with pytest.raises(TooLarge, match=r"image has 20000 px \(200 x 100\), limit is 1000"):
        thumbnail(noise((200, 100)), 64, Limits(max_image_px=1000))
    with pytest.raises(TooLarge, match="bytes, limit is 10"):
        thumbnail(noise((200, 100)), 64, Limits(max_image_bytes=10))
    with pytest.raises(InvalidInput, match="an HTML or XML page"):
        thumbnail(b"<html>", 64, Limits())
