"""Points as one MessagePack: so they cross the pipe, stand in the journal, and become the engine's.

A load makes them by the hundred thousand, so what can be computed for all points of a batch is: vectors are one block
of float32, and the texts are cut into words where the points come from, not in the process that searches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.store.base import Layout
from indexer.store.bm25 import document_words
from indexer.store.payload import payload_of
from indexer.store.vectors import DENSE, LATENTS, PARTS, dense_rows, unit_rows, words_name
from model.errors import InvalidInput
from model.types import Float32

if TYPE_CHECKING:
    import qdrant_edge as qe


# In which a batch says whether it brings parts.
_HEAD_BYTES = 8


def pack(points: Sequence[Point], layout: Layout) -> bytes:
    """Return the points of a collection as a batch. Raises `InvalidInput`, which a point without a vector of the
    collection's dimensions is, or metadata that are not JSON."""
    latents = [unit_rows(p.latents, layout.dimensions, p.document_id) for p in points] if layout.latents else []
    dense = dense_rows(points, layout)
    apart = layout.dimensions if layout.apart and not isinstance(dense, np.ndarray) else None
    vectors = (layout.dimensions, _block(dense), _block(latents))
    try:
        words = [_words(point.text, layout.language) for point in points]
        payloads = [payload_of(point) for point in points]
        ids = [point_id(point.document_id) for point in points]
        packed: bytes = msgpack.packb((apart, ids, *vectors, words_name(layout.language), words, payloads))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"the store cannot hold this value: {error}"[:300]) from error
    return packed


def dimensions_apart(batch: bytes) -> int | None:
    """Return the dimensions of the vectors of several parts that a batch brings under a name of their own, None where
    it brings none."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(batch[:_HEAD_BYTES])
    unpacker.read_array_header()
    dimensions: int | None = unpacker.unpack()
    return dimensions


def engine_points(batch: bytes) -> list[qe.Point]:
    """Return the points of a batch in the engine's terms. A text without words has no sparse vector."""
    # Here, so that the process that makes batches has no engine.
    import qdrant_edge as qe

    apart, ids, dimensions, dense, latents, words_vector, words, payloads = msgpack.unpackb(batch, strict_map_key=False)
    points = []
    for id_, rows, latent_rows, terms, payload in zip(
        ids, _rows(dense, dimensions), _rows(latents, dimensions) or repeat(None), words, payloads, strict=False
    ):
        name = PARTS if apart is not None and isinstance(rows, list) else DENSE
        vectors: Any = rows
        if name != DENSE or latent_rows is not None or terms is not None:
            vectors = {name: vectors}
            if latent_rows is not None:
                vectors[LATENTS] = latent_rows
            if terms is not None:
                vectors[words_vector] = qe.SparseVector(*terms)
        points.append(qe.Point(id_, vectors, payload))
    return points


def _words(text: str | None, language: str) -> tuple[Sequence[int], Sequence[float]] | None:
    words = document_words(text, language) if text else None
    return (words.ids, words.weights) if words is not None and words.ids else None


def _block(vectors: Float32 | Sequence[Float32]) -> tuple[bytes, list[int] | None]:
    """Return vectors as their bytes, and how many each point has: None where each has one alone, not in a list."""
    if isinstance(vectors, np.ndarray):
        return vectors.tobytes(), None
    return b"".join([rows.tobytes() for rows in vectors]), [len(rows) for rows in vectors]


def _rows(block: tuple[bytes, list[int] | None], dimensions: int) -> list[Any]:
    """Return each point's vector, or a list of its vectors where it has several: the engine takes a single one for a
    list of one. They are views of the block, at half the cost of lists of floats."""
    data, counts = block
    floats = memoryview(data).cast("f")
    rows = [floats[start : start + dimensions] for start in range(0, len(floats), dimensions)]
    if counts is None:
        return rows
    following: Iterator[Any] = iter(rows)
    return [next(following) if count == 1 else list(islice(following, count)) for count in counts]
