"""Whatever the file, upright RGB or one clear error."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.errors import InvalidInput, TooLarge
from model.images.decoding import FORMATS, decode_image
from model.types import Limits

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
        (b"\x00\x01nonsense", "image cannot be read: allowed are JPEG, .*it starts with 00 01 6e 6f 6e 73 65 6e"),
        (b"%PDF-1.7", 'it starts with "%PDF-1.7"'),
    ],
)
def test_what_is_not_an_image(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_image(data, LIMITS)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused(kind: str) -> None:
    data = saved(NOISE, kind)
    for keep in (len(data) // 2, 20, 3):
        with pytest.raises(InvalidInput):
            decode_image(data[:keep], LIMITS)


@pytest.mark.parametrize("kind", FORMATS)
def test_any_wrong_byte_gives_an_image_or_our_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of the headers, and some of what follows: each decoder has exceptions of its own."""
    monkeypatch.setattr(
        "model.images.decoding.is_suspicious", lambda image: False
    )  # a child for each would take minutes
    data = saved(NOISE.resize((16, 16)), kind)
    refused = 0
    for position in [*range(min(len(data), 400)), *range(400, len(data), 37)]:
        for wrong in (data[position] ^ 1, data[position] ^ 0xFF):
            try:
                decode_image(data[:position] + bytes([wrong]) + data[position + 1 :], LIMITS)
            except InvalidInput:
                refused += 1
    assert refused


DEEP = {
    "I;16": (np.uint16, 40_000, 255 / 65535),
    "I": (np.int32, 40_000, 255 / 65535),
    "F": (np.float32, 200, 1.0),
}


@pytest.mark.parametrize("mode", DEEP)
def test_deep_pixels_cost_a_few_bytes_each(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest value, which says the range, is in the last row."""
    monkeypatch.setattr("model.images.decoding.is_suspicious", lambda image: False)  # where the memory is measured
    kind, largest, scale = DEEP[mode]
    values = np.zeros((1500, 2000), kind)
    values[:, 1] = 1
    values[-1] = np.linspace(0, largest, 2000)
    data = saved(Image.fromarray(values), "TIFF")
    tracemalloc.start()
    try:
        image = decode_image(data, LIMITS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * values.size  # numpy's; as float64 it would be 24 at least
    assert np.abs(np.asarray(image)[..., 0] - values * scale).max() <= 0.51


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
    with pytest.raises(TooLarge) as caught:  # over Pillow's own limit, of which nothing is said
        decode_image(bytes(data), LIMITS)
    assert caught.value.detail == "image has 3600000000 px, limit is 50000000"
    assert (caught.value.field, caught.value.value, caught.value.limit) == ("image", 3_600_000_000, 50_000_000)
    with pytest.raises(TooLarge, match="limit is 178956970"):  # ours may be set above it
        decode_image(bytes(data), Limits(max_image_px=10**10))
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
