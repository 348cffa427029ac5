"""Whatever the file, upright RGB or one clear error."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.errors import InvalidInput, TooLarge
from model.images import decode_image
from model.inputs import Limits

# Pillow warns of a broken EXIF block before it raises; what counts here is the error.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
LIMITS = Limits()
Png = Callable[..., bytes]


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(data: bytes) -> tuple[int, ...]:
    image = decode_image(data, LIMITS)
    assert image.mode == "RGB"
    return image.getpixel((image.width // 2, image.height // 2))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), (255, 255, 255)),
        (saved(Image.new("RGBA", (8, 8), (255, 0, 0, 255))), (255, 0, 0)),
        (saved(Image.new("LA", (8, 8), (0, 128))), (127, 127, 127)),
        (saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (saved(Image.new("1", (8, 8), 1)), (255, 255, 255)),
        (saved(Image.new("I;16", (8, 8), 65535)), (255, 255, 255)),
        (saved(Image.new("I;16", (8, 8), 32768)), (128, 128, 128)),
        (saved(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"), (128, 128, 128)),
        (saved(Image.new("RGB", (8, 8), "blue").quantize(4)), (0, 0, 255)),
        (saved(Image.new("P", (8, 8), 0), transparency=0), (255, 255, 255)),
        (saved(Image.new("RGB", (1, 1), "lime")), (0, 255, 0)),
        (saved(Image.new("RGB", (8, 8), "blue"), "WEBP", lossless=True), (0, 0, 255)),
        (saved(Image.new("RGB", (8, 8), "blue"), "BMP"), (0, 0, 255)),
    ],
    ids=[
        "clear",
        "opaque",
        "half-grey",
        "cmyk",
        "bits",
        "16-bit",
        "16-bit-half",
        "float",
        "palette",
        "palette-clear",
        "1x1",
        "webp",
        "bmp",
    ],
)
def test_modes(data: bytes, expected: tuple[int, int, int]) -> None:
    assert np.abs(np.subtract(colour(data), expected)).max() <= 1


def test_cmyk_jpeg() -> None:
    red, green, blue = colour(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), name) for name in ("red", "blue")]
    data = saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert colour(data) == (255, 0, 0)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    assert decode_image(saved(image, "JPEG", exif=exif), LIMITS).size == (10, 20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"image is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html></html>", "an HTML or XML page"),
        (b"\x00\x01nonsense", "not an image of a supported format"),
        (b"%PDF-1.7", "not an image of a supported format"),
    ],
)
def test_what_is_not_an_image(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, kind)
    for keep in (len(data) // 2, 20, 3):
        with pytest.raises(InvalidInput):
            decode_image(data[:keep], LIMITS)


def test_limits_say_value_and_limit_before_decoding(png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(size=(40, 30))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded before the check"))
    with pytest.raises(TooLarge, match=r"image has 1200 px \(40 x 30\), limit is 1199"):
        decode_image(data, Limits(max_image_px=1199))
    with pytest.raises(TooLarge, match=rf"image has {len(data)} bytes, limit is 10"):
        decode_image(data, Limits(max_image_bytes=10))


def test_a_bomb_is_refused_by_its_header() -> None:
    data = bytearray(saved(Image.new("1", (8, 8))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(TooLarge, match="limit is 50000000"):
        decode_image(bytes(data), LIMITS)
    real = saved(Image.new("1", (12_000, 12_000)))
    assert len(real) < 100_000
    with pytest.raises(TooLarge, match="limit is 50000000"):
        decode_image(real, LIMITS)


@given(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x24\x00\x00\x00WEBP", b"BM", b"II*\x00"]
    ),
)
def test_any_bytes_give_an_image_or_our_error(tail: bytes, head: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        decode_image(head + tail, LIMITS)
