"""Reading the documents of a collection page by page, in the order of their points, without a model.

No write changes that order, and a cursor names the first point of the next page. So while nothing is written every
document comes exactly once; a document that is not written all the while comes exactly once whatever else is written.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from indexer.domain.collections import Collection
from indexer.domain.documents import point_id
from indexer.domain.points import Point, Stretch
from indexer.filters import Filter
from indexer.store.base import Points
from model.errors import InvalidInput
from service.search.answers import Share

# Points of one call of the store: searches run between two calls.
_CALL_POINTS = 500


@dataclass(frozen=True, slots=True)
class Cursor:
    """The first point of the next page. `walk` tells which collection, since when, and which filter it belongs to."""

    point: str
    walk: str

    def text(self) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([self.point, self.walk])).decode().rstrip("=")


def walk_of(collection: Collection, condition: Filter | None) -> str:
    """Tell walks apart whose pages do not belong together: a collection that was made again has other documents."""
    described = repr((collection.name, collection.created_at, condition))
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def read_cursor(text: str, walk: str) -> str:
    """Return the point that a cursor names. Raise `InvalidInput` for a cursor that this service did not write, or wrote
    for another collection or filter."""
    try:
        cursor = Cursor(*orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
        point = str(uuid.UUID(cursor.point))
    except (binascii.Error, ValueError, TypeError, AttributeError) as error:
        raise InvalidInput("the cursor was not made by this call", field="cursor", value=text) from error
    if cursor.walk != walk:
        raise InvalidInput(
            "the cursor belongs to another collection or another filter, or the collection was deleted and made again: "
            "repeat the call that it came from with the same filter, or begin without a cursor",
            field="cursor",
            value=text,
        )
    return point


@dataclass(frozen=True, slots=True)
class PageReader:
    """Reads pages that are bounded in documents and in bytes: one that would have more bytes ends early."""

    points: Points
    max_bytes: int
    share: Share

    async def read(
        self,
        after: str | None,
        limit: int,
        condition: Filter | None,
        write: Callable[[Point], bytes],
        *,
        with_vectors: bool,
    ) -> tuple[list[bytes], str | None]:
        """Return the written documents of a page, and the first point of the next one. The store reads the next points
        while the last ones are being written."""
        written: list[bytes] = []
        size_bytes = 0

        def call(after: str | None, remaining: int) -> asyncio.Task[Stretch]:
            number = min(_CALL_POINTS, remaining)
            return asyncio.ensure_future(self.points.scroll(after, number, condition, with_vectors=with_vectors))

        reading: asyncio.Task[Stretch] | None = call(after, limit)
        try:
            while reading is not None:
                stretch = await reading
                after, remaining = stretch.after, limit - len(written) - len(stretch.points)
                reading = call(after, remaining) if after is not None and remaining else None
                for point in stretch.points:
                    document = write(point)
                    if written and size_bytes + len(document) > self.max_bytes:
                        return written, point_id(point.document_id)
                    size_bytes += len(document)
                    self.share.grow_to(size_bytes)
                    written.append(document)
        finally:
            if reading is not None:
                reading.cancel()
        return written, after
