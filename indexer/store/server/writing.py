"""Points as a Qdrant server is sent them, over each transport, and cut into calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from qdrant_client import grpc as wire
from qdrant_client import models as q
from qdrant_client.conversions.conversion import payload_to_grpc

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.store.base import Layout
from indexer.store.bm25 import Words
from indexer.store.payload import payload_of
from indexer.store.server.messages import write_vector
from indexer.store.server.ranking import as_json
from indexer.store.vectors import dense_rows, vectors_of
from model.errors import InvalidInput
from model.types import Float32

# Of one write: servers take 32 MB over REST unless they are told otherwise.
CALL_BYTES = 16_000_000
_VALUE_BYTES = 12  # of a vector, as JSON


@dataclass(frozen=True, slots=True)
class Written:
    """A point as it is written. `size_bytes` is that of its JSON, about."""

    id: str
    vectors: Mapping[str, Float32 | Words]
    payload: dict[str, Any]
    size_bytes: int

    @classmethod
    def of(cls, point: Point, layout: Layout, embedding: Float32) -> Written:
        """Return a point in this form, with its embedding at length 1. Raises `InvalidInput` for what the server cannot
        hold."""
        vectors, payload = vectors_of(point, layout, embedding), payload_of(point)
        values = sum(2 * len(value.ids) if isinstance(value, Words) else value.size for value in vectors.values())
        return cls(point_id(point.document_id), vectors, payload, len(storable(payload)) + _VALUE_BYTES * values)

    def struct(self) -> q.PointStruct:
        """Return the point as REST sends it."""
        vectors = {name: as_json(vector) for name, vector in self.vectors.items()}
        # Validating takes longer than writing it.
        return q.PointStruct.model_construct(id=self.id, vector=vectors, payload=self.payload)

    def write_to(self, request: wire.UpsertPoints) -> None:
        """Add the point to a request of gRPC. The client's own way makes a Python object of each number."""
        message = request.points.add(id=wire.PointId(uuid=self.id), payload=payload_to_grpc(self.payload))
        for name, vector in self.vectors.items():
            write_vector(message.vectors.vectors.vectors[name], vector)


def written(points: Sequence[Point], layout: Layout) -> list[Written]:
    """Return points in the form in which they are written, of one document the last. Raises `InvalidInput`."""
    embeddings = dense_rows(points, layout)
    latest = {
        point.document_id: Written.of(point, layout, embedding)
        for point, embedding in zip(points, embeddings, strict=True)
    }
    return list(latest.values())


def calls(points: Sequence[Written], most: int) -> Iterator[list[Written]]:
    """Cut points into calls by their number and their bytes. A point over the bytes has a call of its own."""
    part: list[Written] = []
    part_bytes = 0
    for point in points:
        if part and (len(part) == most or part_bytes + point.size_bytes > CALL_BYTES):
            yield part
            part, part_bytes = [], 0
        part.append(point)
        part_bytes += point.size_bytes
    if part:
        yield part


def storable(payload: dict[str, Any]) -> bytes:
    """Return the payload as JSON. Refuses what Edge refuses; gRPC would write NaN, and `:memory:` anything."""
    try:
        encoded = orjson.dumps(payload, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:  # JSONEncodeError is one
        raise InvalidInput(f"the store cannot hold or compare this value: {error}"[:300]) from error
    # NaN is written as null, beside the fields that have no value.
    absent = sum(value is None for value in payload.values())
    if encoded.count(b"null") > absent and _has_nan(payload):
        raise InvalidInput("the store cannot hold or compare this value: not a finite number")
    return encoded


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not np.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_nan(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_nan(item) for item in value)
