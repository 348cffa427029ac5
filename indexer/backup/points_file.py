"""Points as a file, independent of the engine: msgpack records one after the other, gzipped. Written and read a page at
a time.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgpack
import numpy as np

from indexer.backup.patience import PatientPoints
from indexer.domain.points import Part, Point
from model.errors import InvalidInput
from model.types import Shares

PAGE = 256  # points; the most that one call of a store should have
_LEVEL = 1  # vectors hardly get smaller, texts do at once
_ARRAY = 1  # msgpack's extension type of a NumPy array of float32: its shape, and its bytes


async def write(points: PatientPoints, file: Path) -> int:
    """Write every point to a file, and return their number. A point that is written meanwhile is saved as it was before
    or after."""
    count, after = 0, None
    with gzip.open(file, "wb", compresslevel=_LEVEL) as out:
        while True:
            page = await points.page(after, PAGE)
            for point in await points.fetch(page.document_ids, with_latents=True):
                if point is not None:
                    out.write(_packed(point))
                    count += 1
            if (after := page.after) is None:
                return count


async def read(file: Path, points: PatientPoints) -> int:
    """Read a file into an existing collection of the store, and return the number of points. Raises `InvalidInput` for
    another kind of file."""
    count, page = 0, []
    for point in _points(file):
        page.append(point)
        if len(page) == PAGE:
            await points.upsert(page)
            count, page = count + PAGE, []
    if page:
        await points.upsert(page)
    return count + len(page)


def _packed(point: Point) -> bytes:
    values = {field.name: getattr(point, field.name) for field in fields(point)}
    values["parts"] = [(part.start, part.end, part.image, part.shares) for part in point.parts]
    packed: bytes = msgpack.packb({**values, "metadata": dict(point.metadata)}, default=_extended)
    return packed


def _points(file: Path) -> Iterator[Point]:
    try:
        with gzip.open(file, "rb") as content:
            for values in msgpack.Unpacker(cast(BinaryIO, content), ext_hook=_array, strict_map_key=False):
                yield _point(values)
    except (EOFError, OSError, ValueError, TypeError, KeyError, zlib.error, msgpack.UnpackException) as error:
        raise InvalidInput(f"{file} has no points: {type(error).__name__}", field="file", value=str(file)) from error


def _point(values: dict[str, Any]) -> Point:
    """Build a point from its saved values, and ignore values that a later version added."""
    if values.get("shares") is not None:
        values["shares"] = _layers(values["shares"])
    values["more_images"] = tuple(values.get("more_images", ()))
    values["parts"] = tuple(
        Part(start, end, image, None if shares is None else _layers(shares))
        for start, end, image, shares in values.get("parts", ())
    )
    names = {field.name for field in fields(Point)}
    return Point(**{name: value for name, value in values.items() if name in names})


def _layers(shares: Sequence[Sequence[float]]) -> Shares:
    return tuple((text, image) for text, image in shares)


def _extended(value: object) -> msgpack.ExtType:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a point has a {type(value).__name__}")
    return msgpack.ExtType(_ARRAY, msgpack.packb([list(value.shape), value.astype("<f4", copy=False).tobytes()]))


def _array(code: int, data: bytes) -> Any:
    if code != _ARRAY:
        raise ValueError(f"extension {code}")
    shape, content = msgpack.unpackb(data)
    return np.frombuffer(content, "<f4").astype(np.float32).reshape(shape)
