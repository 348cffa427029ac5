"""What is kept of an image: never more than the bound, never less than was promised."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from indexer.blobs.image_store import Blobs
from indexer.blobs.local_files import LocalFiles
from indexer.blobs.thumbnails import Keep, Keeper, KeepSettings, Thumbnails
from indexer.domain.documents import ThumbnailWidth
from model.errors import DependencyUnavailable, InvalidInput, NotFound, Overloaded, TooLarge
from model.images.thumbnail import thumbnail
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


# --- beside what is kept


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sides of the thumbnails that were drawn, one for each time."""
    sides: list[int] = []

    def recorded(data: bytes, side_px: int, limits: Limits) -> bytes:
        sides.append(side_px)
        return thumbnail(data, side_px, limits)

    monkeypatch.setattr("indexer.blobs.thumbnails.thumbnail", recorded)
    return sides


async def test_a_thumbnail_is_drawn_once_and_kept(blobs: Blobs, drawn: list[int]) -> None:
    digest = await blobs.put(noise((2000, 1000)))
    small = await Thumbnails(blobs).get(digest, ThumbnailWidth.SMALL)
    assert opened(small).size == (256, 128)
    assert await Thumbnails(blobs).get(digest, ThumbnailWidth.SMALL) == small, "by another process"
    assert drawn == [256]
    assert opened(await Thumbnails(blobs).get(digest, ThumbnailWidth.LARGE)).size == (1024, 512)
    assert drawn == [256, 1024]
    ((blob,),) = [page async for page in blobs.pages()]
    assert blob.digest == digest, "a thumbnail is no blob of its own"


async def test_many_who_ask_at_once_have_it_drawn_once(blobs: Blobs, drawn: list[int]) -> None:
    digest = await blobs.put(noise((600, 600)))
    thumbnails = Thumbnails(blobs)
    asking = [asyncio.create_task(thumbnails.get(digest, ThumbnailWidth.SMALL)) for _ in range(20)]
    await asyncio.sleep(0)
    asking.pop(0).cancel()
    assert len(set(await asyncio.gather(*asking))) == 1
    assert drawn == [256]


async def test_what_waits_is_bounded(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.blobs.thumbnails._MAX_WAITING", 2)
    digests = [await blobs.put(noise((300 + number, 300))) for number in range(3)]
    thumbnails = Thumbnails(blobs)
    answers = await asyncio.gather(
        *(thumbnails.get(digest, ThumbnailWidth.SMALL) for digest in digests), return_exceptions=True
    )
    (refused,) = [answer for answer in answers if isinstance(answer, Exception)]
    assert isinstance(refused, Overloaded)
    assert refused.detail == "2 thumbnails wait to be drawn, limit is 2: try again"
    assert await thumbnails.get(digests[2], ThumbnailWidth.SMALL)


async def test_two_are_drawn_at_a_time(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def slow(data: bytes, _side_px: int, _limits: Limits) -> bytes:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return data

    monkeypatch.setattr("indexer.blobs.thumbnails.thumbnail", slow)
    digests = [await blobs.put(bytes([number])) for number in range(8)]
    thumbnails = Thumbnails(blobs)
    await asyncio.gather(*(thumbnails.get(digest, ThumbnailWidth.SMALL) for digest in digests))
    assert most == 2


async def test_an_image_that_is_not_there_or_cannot_be_read(blobs: Blobs) -> None:
    thumbnails = Thumbnails(blobs)
    text = await blobs.put(b"<html>")
    with pytest.raises(NotFound, match="there is no image 0000"):
        await thumbnails.get("0" * 64, ThumbnailWidth.SMALL)
    with pytest.raises(NotFound, match=r"there is no thumbnail of image .*: image cannot be read"):
        await thumbnails.get(text, ThumbnailWidth.SMALL)


async def test_a_full_disk_keeps_no_thumbnail_and_gives_it(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = await blobs.put(noise((600, 600)))

    async def full(*_: object) -> None:
        raise DependencyUnavailable("no space left")

    monkeypatch.setattr(blobs, "put_thumbnail", full)
    assert opened(await Thumbnails(blobs).get(digest, ThumbnailWidth.SMALL)).size == (256, 256)


@pytest.mark.parametrize("url", ["file://{folder}/blobs", "memory://{name}"])
async def test_a_sweep_takes_the_thumbnails_of_images_that_nobody_refers_to(url: str, tmp_path: Path) -> None:
    blobs = Blobs(url.format(folder=tmp_path, name=tmp_path.name))
    try:
        thumbnails = Thumbnails(blobs)
        kept, gone = [await blobs.put(noise((600, 600 + number))) for number in range(2)]
        for digest in (kept, gone):
            for width in ThumbnailWidth:
                await thumbnails.get(digest, width)
        await blobs.sweep({kept})
        for width in ThumbnailWidth:
            assert await blobs.get_thumbnail(kept, width)
            assert await blobs.get_thumbnail(gone, width) is None
        assert await blobs.get(gone), "too young to go itself"
    finally:
        blobs.close()


async def test_a_half_written_thumbnail_is_removed(blobs: Blobs, tmp_path: Path) -> None:
    digest = await blobs.put(b"image")
    await blobs.put_thumbnail(digest, 256, b"small")
    (kept,) = (tmp_path / "blobs" / "thumbnails").rglob(digest)
    half = kept.with_name(f".part-{digest}.1.aa")
    half.write_bytes(b"sm")
    LocalFiles(str(tmp_path / "blobs")).remove_temporaries(time.time() + 10)
    assert kept.exists()
    assert not half.exists()
