"""What is kept of an image: never more than the bound, never less than was promised."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keep, Keeper, KeepSettings, thumbnail
from model.errors import InvalidInput, NotFound, TooLarge
from model.types import Limits

Make = Callable[..., bytes]


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Blobs]:
    opened = Blobs(f"file://{tmp_path}/blobs")
    yield opened
    opened.close()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def noise(size: tuple[int, int], kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "small"), [((900, 300), (128, 43)), ((300, 900), (43, 128)), ((2000, 2000), (128, 128))]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_longer_side_is_bounded_and_the_shape_stays(
    size: tuple[int, int], small: tuple[int, int], kind: str
) -> None:
    image = opened(thumbnail(noise(size, kind), 128, Limits()))
    assert image.format == "JPEG"
    assert max(image.size) == 128
    assert image.size == pytest.approx(small, abs=1)


def test_it_is_upright_and_without_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    exif[0x010E] = "where I live"
    image = opened(thumbnail(noise((400, 200), "JPEG", exif=exif.tobytes()), 100, Limits()))
    assert image.size == (50, 100)
    assert not image.getexif()


def test_a_small_file_is_kept_as_it_is(make_image: Make) -> None:
    data = make_image(size=(64, 64))
    assert thumbnail(data, 128, Limits()) is data


def test_a_small_picture_in_a_large_file_is_not() -> None:
    data = noise((64, 64), "TIFF") + b"\0" * 100_000
    assert len(thumbnail(data, 128, Limits())) < 10_000


def test_what_is_no_image_or_too_large(make_image: Make) -> None:
    with pytest.raises(InvalidInput):
        thumbnail(b"<html>", 128, Limits())
    with pytest.raises(TooLarge):
        thumbnail(make_image(size=(200, 200)), 128, Limits(max_image_px=1000))


async def test_what_is_kept(blobs: Blobs) -> None:
    original = noise((600, 600))
    digest = await blobs.put(original)
    assert await Keeper(blobs, KeepSettings()).keep(digest) == digest
    assert await Keeper(blobs, KeepSettings(Keep.NONE)).keep(digest) is None
    keeper = Keeper(blobs, KeepSettings(Keep.THUMBNAIL, 64))
    kept = await keeper.keep(digest)
    assert kept is not None
    assert kept != digest
    assert opened(await blobs.get(kept)).size == (64, 64)
    assert await keeper.keep(digest, original) == kept  # the same every time: a repeated batch writes the same point
    assert await blobs.get(digest) == original  # the sweep's to delete, when no batch needs it any more
    with pytest.raises(NotFound):
        await keeper.keep("0" * 64)


def test_the_bound_is_checked() -> None:
    with pytest.raises(InvalidInput, match="thumbnail_px is 8, allowed are 16 to 4096"):
        KeepSettings(thumbnail_px=8)
