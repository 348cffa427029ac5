from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.config import ImageConfig
from model.errors import TooLarge
from model.inputs import Limits
from model.preprocess import image_pixels, normalise_text

PLAIN = ImageConfig(size_px=16, resize="pad", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a \t\n b ", "a b"),
        ("e\u0301", "é"),
        ("a\x00b", "a b"),
        ("\ud800x", "x"),
        ("\u00a0 \u2003", ""),
        ("Ｆ", "Ｆ"),
    ],
)
def test_text_is_normalised(raw: str, clean: str) -> None:
    assert normalise_text(raw, Limits()) == clean


@given(st.text(max_size=200))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text, Limits())
    assert normalise_text(once, Limits()) == once


def test_text_over_the_limit_is_refused_with_value_and_limit() -> None:
    with pytest.raises(TooLarge, match="text has 1000000 characters, limit is 100000") as caught:
        normalise_text("x" * 1_000_000, Limits())
    assert (caught.value.field, caught.value.value, caught.value.limit) == ("text", 1_000_000, 100_000)


@pytest.mark.parametrize("resize", ["pad", "crop", "squash"])
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_every_size_gives_the_towers_square(resize: str, width: int, height: int) -> None:
    pixels = image_pixels(Image.new("RGB", (width, height), "red"), ImageConfig(size_px=16, resize=resize))
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()


def test_padding_keeps_the_whole_picture_on_white() -> None:
    pixels = image_pixels(Image.new("RGB", (32, 16), "red"), PLAIN)
    assert pixels[:, 0, 0].tolist() == [1, 1, 1]
    assert pixels[:, 8, 0].tolist() == [1, 0, 0]
    assert pixels[:, 8, 15].tolist() == [1, 0, 0]


def test_cropping_keeps_the_centre() -> None:
    image = Image.new("RGB", (48, 16), "red")
    image.paste("blue", (16, 0, 32, 16))
    pixels = image_pixels(image, ImageConfig(size_px=16, resize="crop", mean=(0.0,) * 3, std=(1.0,) * 3))
    assert pixels[:, 8, 8].tolist() == [0, 0, 1]


def test_an_extreme_strip_does_not_explode() -> None:
    assert image_pixels(Image.new("RGB", (40_000, 1), "red"), ImageConfig(size_px=16, resize="crop")).shape == (
        3,
        16,
        16,
    )
    assert image_pixels(Image.new("RGB", (1, 40_000), "red"), PLAIN).shape == (3, 16, 16)


def test_mean_and_deviation_are_applied_per_channel() -> None:
    config = ImageConfig(size_px=8, resize="squash", mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    pixels = image_pixels(Image.new("RGB", (8, 8), "white"), config)
    assert pixels[:, 0, 0].tolist() == [1.0, 3.0, 0.5]
