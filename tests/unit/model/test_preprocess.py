from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from model.config import ImageConfig, Resize
from model.errors import InvalidInput, TooLarge
from model.images import resizing
from model.images.decoding import decode_image
from model.preprocess import Preprocessor, image_pixels, normalise_text
from model.types import Limits

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


def odd_images() -> dict[str, Image.Image]:
    """Noise, so that a shift by one pixel or another filter shows."""
    random = np.random.default_rng(0)

    def noise(width: int, height: int, channels: int = 3) -> Image.Image:
        values = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
        return Image.fromarray(values if channels > 1 else values[:, :, 0])

    clear = noise(60, 50)
    clear.putalpha(Image.fromarray(random.integers(0, 256, (50, 60), dtype=np.uint8)))
    flat = Image.new("RGB", clear.size, "white")
    flat.paste(clear, mask=clear.getchannel("A"))
    return {
        "plain": noise(90, 70),
        "tall": noise(71, 133),
        "exact": noise(48, 48),
        "a dot": noise(1, 1),
        "small": noise(5, 7),
        "large": noise(1301, 977),
        "thin": noise(11, 500),
        "flat": noise(2001, 40),
        "63 to 1": noise(7, 441),
        "grey": noise(64, 51, channels=1).convert("RGB"),
        "alpha on white": flat,
        "gradient": Image.radial_gradient("L").resize((300, 200)).convert("RGB"),
    }


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# transformers' processor, what a checkpoint's preprocessor_config.json changes in it, and ours
PROCESSORS = {
    "clip": ("CLIPImageProcessorPil", {"size": 48, "crop_size": 48}, ImageConfig(48)),
    "siglip": (
        "SiglipImageProcessorPil",
        {"size": {"height": 48, "width": 48}},
        ImageConfig(48, resize="squash", **HALF),
    ),
    "vit": (
        "ViTImageProcessorPil",
        {"size": {"height": 48, "width": 48}},
        ImageConfig(48, resize="squash", resample="bilinear", **HALF),
    ),
    "dinov2": (
        "BitImageProcessorPil",
        {
            "size": {"shortest_edge": 56},
            "crop_size": 48,
            "image_mean": IMAGENET["mean"],
            "image_std": IMAGENET["std"],
        },
        ImageConfig(48, crop_from_px=56, **IMAGENET),
    ),
    "lanczos": (
        "CLIPImageProcessorPil",
        {"size": 48, "crop_size": 48, "resample": 1},
        ImageConfig(48, resample="lanczos"),
    ),
}


def steps_apart(name: str, image: Image.Image) -> NDArray[np.float64]:
    """Ours less transformers', in steps of an 8-bit channel."""
    processor, changes, config = PROCESSORS[name]
    expected = getattr(transformers, processor)(**changes)(image, return_tensors="np")["pixel_values"][0]
    actual = image_pixels(image, config)
    assert actual.shape == expected.shape
    steps: NDArray[np.float64] = np.abs(actual - expected) * np.asarray(config.std)[:, None, None] * 255
    return steps


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("kind", odd_images())
def test_pixels_are_transformers_own(name: str, kind: str) -> None:
    """Equal but for rounding: one 8-bit step in one value of twenty, a thousandth of a step in all others.

    A tall picture that is squashed goes through Pillow's two passes in the other order: noise is clipped and rounded
    between them.
    """
    picture = odd_images()[kind]
    steps = steps_apart(name, picture)
    if PROCESSORS[name][2].resize == "squash" and picture.height > 1.5 * picture.width:
        assert steps.max() <= 9.001
        assert steps.mean() <= 0.35
    else:
        assert steps.max() <= 1.001
        assert (steps > 1e-3).mean() <= 0.05


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_transformers_own_where_torch_is_slower_than_pillow(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resizing, "_has_vector_instructions", lambda: False)
    assert steps_apart(name, odd_images()["large"]).max() <= 1e-3


@pytest.mark.parametrize("name", ["clip", "dinov2", "lanczos"])
@pytest.mark.parametrize("size", [(9, 3000), (3000, 9), (1, 3000)])
def test_a_strip_of_more_than_64_to_1_is_near(name: str, size: tuple[int, int]) -> None:
    """Resized in part only: one step on a smooth picture, a mean of two on noise (overshoot is clipped in another order)."""
    smooth = Image.radial_gradient("L").resize(size).convert("RGB")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    assert steps_apart(name, smooth).max() <= 1.01
    assert steps_apart(name, noise).mean() <= 2


@pytest.mark.parametrize("changes", [{"resize": "pad", "crop_from_px": 256}, {"crop_from_px": 200}])
def test_a_crop_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="crop_from_px is"):
        ImageConfig(**changes)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(500, 375), (1600, 1200), (1200, 4000)])
def test_a_large_jpeg_decoded_small_is_nearly_the_same(resize: Resize, size: tuple[int, int]) -> None:
    """The tolerance that `Preprocessor` states, on a picture harder than a photograph: half of it is noise of one pixel."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)).resize(size)
    fine = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).filter(ImageFilter.GaussianBlur(1))
    file = io.BytesIO()
    Image.blend(coarse, fine, 0.3).save(file, "JPEG", quality=85)
    config = ImageConfig(size_px=224, resize=resize, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    whole, drafted = decode_image(file.getvalue(), Limits()), decode_image(file.getvalue(), Limits(), at_least_px=448)
    assert min(drafted.size) >= min(448, min(size))
    assert (drafted.size < whole.size) == (min(size) >= 2 * 448)
    difference = np.abs(image_pixels(whole, config) - image_pixels(drafted, config)) * 255
    assert difference.mean() < 1.5
    assert difference.max() < 12


def test_only_a_jpeg_comes_smaller(png: Callable[..., bytes]) -> None:
    assert decode_image(png("red", (2000, 2000)), Limits(), at_least_px=100).size == (2000, 2000)


def test_a_long_text_is_encoded_by_the_call_that_lets_other_threads_run() -> None:
    """`encode` of a tokenizer holds Python's lock for as long as it takes."""

    class Words:
        """A tokenizer of a single id for each word, with a special token at each end."""

        def __init__(self) -> None:
            self.locked_chars = 0

        def encode(self, sequence: str, /) -> SimpleNamespace:
            self.locked_chars = max(self.locked_chars, len(sequence))
            return self._encode(sequence)

        def encode_batch(self, sequences: list[str], /) -> list[SimpleNamespace]:
            return [self._encode(sequence) for sequence in sequences]

        def _encode(self, sequence: str) -> SimpleNamespace:
            ids = [1, *(10 + len(word) for word in sequence.split()), 2]
            return SimpleNamespace(ids=ids, special_tokens_mask=[1, *[0] * (len(ids) - 2), 1])

    tokenizer = Words()
    preprocessor = Preprocessor(tokenizer, 20, ImageConfig(), 1)
    text = " ".join("x" * (1 + number % 7) for number in range(5_000))
    ids, dropped = preprocessor.tokens(text)
    assert tokenizer.locked_chars == 0
    assert ids.tolist() == [1, *(11 + number % 7 for number in range(18)), 2]
    assert dropped == 5_000 + 2 - 20
    assert preprocessor.tokens("short text")[0].tolist() == [1, 15, 14, 2]
    assert tokenizer.locked_chars == len("short text")
