"""What is kept of a document's image once it is indexed: the original, a thumbnail, or nothing.

The way in always stores the original, which makes 202 a promise and lets the model see every pixel. Only when the
document's point is about to be written does the pipeline ask `Keeper.keep` for the digest that the point is to carry;
an original that no point and no unfinished batch names any more is swept (`Blobs.sweep`) after the grace time.
"Unchanged" is told by the original's digest still.

Consequence for reindexing and for "more like this" by image: they use what is kept. From a thumbnail the embedding
differs a little from the original's; with nothing kept, a document of text and image is embedded anew from its text
alone, and one of an image alone cannot be.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from PIL import Image

from indexer.blobs.image_store import Blobs
from model.errors import InvalidInput
from model.images.decoding import decode_image
from model.settings import setting
from model.types import Limits

_QUALITY = 85  # Pillow's advice for JPEG is 75 to 95; 85 is about 45 kB for a photograph of 512 px
_MIN_PX, _MAX_PX = 16, 4096


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
        """The digest that the document's point is to carry, of a blob that is stored; `original` saves reading it once
        more.
        """
        if self._settings.keep is Keep.ORIGINAL:
            return digest
        if self._settings.keep is Keep.NONE:
            return None
        data = await self._blobs.get(digest) if original is None else original
        small = await self._blobs.run(partial(thumbnail, data, self._settings.thumbnail_px, self._limits))
        return digest if small is data else await self._blobs.put(small)


def thumbnail(data: bytes, px: int, limits: Limits) -> bytes:
    """A JPEG whose longer side is at most `px`, upright, without metadata. The file itself where that is no larger
    either way.

    Raises `InvalidInput` and `TooLarge` as `decode_image` does.
    """
    image = decode_image(data, limits, at_least_px=px)
    fits = max(image.size) <= px
    image.thumbnail((px, px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return data if fits and len(data) <= file.tell() else file.getvalue()
