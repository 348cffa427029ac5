"""Points as a Qdrant server is sent them, cut into calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from qdrant_client import models as q

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.store.base import Layout
from indexer.store.payload import payload_of
from indexer.store.server.ranking import sparse
from indexer.store.vectors import vectors_of
from model.errors import InvalidInput

# Of one write: servers take 32 MB over REST unless they are told otherwise.
CALL_BYTES = 16_000_000
_VALUE_BYTES = 12  # of a vector, as JSON


def calls(points: Sequence[q.PointStruct], most: int) -> Iterator[list[q.PointStruct]]:
    """Cut points into calls by their number and their bytes. A point over the bytes has a call of its own."""
    part: list[q.PointStruct] = []
    held_bytes = 0
    for point in points:
        size_bytes = len(orjson.dumps(point.payload)) + _VALUE_BYTES * _count_values(point.vector)
        if part and (len(part) == most or held_bytes + size_bytes > CALL_BYTES):
            yield part
            part, held_bytes = [], 0
        part.append(point)
        held_bytes += size_bytes
    if part:
        yield part


def _count_values(vector: Any) -> int:
    if isinstance(vector, Mapping):
        return sum(map(_count_values, vector.values()))
    if isinstance(vector, q.SparseVector):
        return 2 * len(vector.indices)
    return sum(map(_count_values, vector)) if isinstance(vector, list) else 1


def struct(point: Point, layout: Layout) -> q.PointStruct:
    payload = storable(payload_of(point))
    return q.PointStruct(id=point_id(point.document_id), vector=vectors_of(point, layout, sparse), payload=payload)


def storable(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload. Refuses what Edge refuses; gRPC would write NaN, and `:memory:` anything."""
    try:
        written = orjson.dumps(payload, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:  # JSONEncodeError is one
        raise InvalidInput(f"the store cannot hold or compare this value: {error}"[:300]) from error
    if b"null" in written and _has_nan(payload):
        raise InvalidInput("the store cannot hold or compare this value: not a finite number")
    return payload


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not np.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_nan(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_nan(item) for item in value)
