"""What is kept of a document's image once it is indexed: the original, a thumbnail, or nothing; and thumbnails beside
it.

The way in always stores the original, which makes 202 a promise and lets the model see every pixel. Only when the
document's point is about to be written does the pipeline ask `Keeper.keep` for the digest that the point is to carry;
an original that no point and no unfinished batch names any more is swept (`Blobs.sweep`) after the grace time.
"Unchanged" is told by the original's digest still.

Consequence for reindexing and for "more like this" by image: they use what is kept. From a thumbnail the embedding
differs a little from the original's; with nothing kept, a document of text and image is embedded anew from its text
alone, and one of an image alone cannot be.

Beside what is kept, `Thumbnails` has small copies for whoever shows hits: drawn when they are first asked for, kept in
the same store, and swept with their image.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from indexer.blobs.image_store import Blobs
from indexer.domain.documents import ThumbnailWidth
from model.errors import DependencyUnavailable, InvalidInput, NotFound, Overloaded
from model.images.thumbnail import thumbnail
from model.settings import setting
from model.types import Limits

_MIN_PX, _MAX_PX = 16, 4096
# Drawing takes a core: a few at a time leave the others to searches. A page of hits asks for some dozens at once.
_DRAWN_AT_A_TIME = 2
_MAX_WAITING = 256
_RETRY_AFTER_S = 2.0


class Keep(StrEnum):
    ORIGINAL = "original"
    THUMBNAIL = "thumbnail"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class KeepSettings:
    keep: Keep = setting(
        Keep.ORIGINAL,
        "keep_images",
        "what is kept of an image once it is indexed: original, thumbnail or none; the model always sees the original. "
        "A reindex uses what is kept: with none there is no image to show (404), and a document that is an image alone "
        "cannot be reindexed",
    )
    # Above the bundled models' 224 and CLIP-L's 336.
    thumbnail_px: int = setting(512, "thumbnail_px", "longer side of a thumbnail", ge=_MIN_PX, le=_MAX_PX)

    def __post_init__(self) -> None:
        if not _MIN_PX <= self.thumbnail_px <= _MAX_PX:
            raise InvalidInput(
                f"thumbnail_px is {self.thumbnail_px}, allowed are {_MIN_PX} to {_MAX_PX}",
                field="thumbnail_px",
                value=self.thumbnail_px,
                limit=_MAX_PX,
            )


class Keeper:
    """Safe to use from many tasks."""

    def __init__(self, blobs: Blobs, settings: KeepSettings, limits: Limits | None = None) -> None:
        self._blobs, self._settings, self._limits = blobs, settings, limits or Limits()

    async def keep(self, digest: str, original: bytes | None = None) -> str | None:
        """Return the digest of the stored image that the document's point refers to. `original` saves reading the image
        again."""
        if self._settings.keep is Keep.ORIGINAL:
            return digest
        if self._settings.keep is Keep.NONE:
            return None
        data = await self._blobs.get(digest) if original is None else original
        small = await self._blobs.run(partial(thumbnail, data, self._settings.thumbnail_px, self._limits))
        return digest if small is data else await self._blobs.put(small)


class Thumbnails:
    """Small copies of kept images. Safe to use from many tasks of one event loop.

    Each is drawn once in a process, however many ask for it at the same time, and once in a store. At most two are
    drawn at a time, and 256 wait.
    """

    def __init__(self, blobs: Blobs, limits: Limits | None = None) -> None:
        self._blobs, self._limits = blobs, limits or Limits()
        self._places = asyncio.Semaphore(_DRAWN_AT_A_TIME)
        self._drawing: dict[tuple[str, int], asyncio.Task[bytes]] = {}

    async def get(self, digest: str, width: ThumbnailWidth) -> bytes:
        """Return the thumbnail of a stored image: a JPEG, or the image itself where that is no larger.

        Raises `NotFound` where there is no such image or it cannot be read here, `Overloaded` and
        `DependencyUnavailable`.
        """
        stored = await self._blobs.get_thumbnail(digest, width)
        return stored if stored is not None else await self._drawn(digest, width)

    async def _drawn(self, digest: str, width: ThumbnailWidth) -> bytes:
        key = digest, int(width)
        task = self._drawing.get(key)
        if task is None:
            if len(self._drawing) >= _MAX_WAITING:
                raise Overloaded(
                    f"{len(self._drawing)} thumbnails wait to be drawn, limit is {_MAX_WAITING}: try again",
                    retry_after_s=_RETRY_AFTER_S,
                )
            task = self._drawing[key] = asyncio.create_task(self._draw(digest, width))
            task.add_done_callback(lambda done: self._finish(key, done))
        # One caller that goes away takes the thumbnail from no other.
        return await asyncio.shield(task)

    def _finish(self, key: tuple[str, int], task: asyncio.Task[bytes]) -> None:
        del self._drawing[key]
        if not task.cancelled():
            # Where every caller has gone nobody else asks for it.
            task.exception()

    async def _draw(self, digest: str, width: ThumbnailWidth) -> bytes:
        async with self._places:
            image = await self._blobs.get(digest)
            try:
                small = await self._blobs.run(partial(thumbnail, image, width, self._limits))
            except InvalidInput as error:
                raise NotFound(f"there is no thumbnail of image {digest}: {error.detail}") from error
        # A full disk keeps no thumbnail, and the one that was drawn is still good.
        with contextlib.suppress(DependencyUnavailable):
            await self._blobs.put_thumbnail(digest, width, small)
        return small
