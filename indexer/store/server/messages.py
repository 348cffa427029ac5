"""Vectors and points in the messages of gRPC, written and read without the client's own objects.

The client makes several objects of each hit, and of each number of a vector: a thousand hits take it longer than the
server needs to find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qdrant_client import grpc as wire
from qdrant_client import models as q
from qdrant_client.conversions.conversion import RestToGrpc, grpc_to_payload

from indexer.store.bm25 import Words
from indexer.store.vectors import DENSE
from model.types import Float32

# Of a point that is read: everything, nothing, or these.
Selection = bool | list[str]


@dataclass(frozen=True, slots=True)
class Record:
    """A point as it was read, over either transport. `vector` is what `unpacked` takes."""

    id: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    vector: Any = None
    score: float = 0.0

    @classmethod
    def of(cls, point: q.ScoredPoint | q.Record) -> Record:
        """Return a point that the client has read."""
        score = point.score if isinstance(point, q.ScoredPoint) else 0.0
        return cls(str(point.id), point.payload or {}, point.vector, score)

    @classmethod
    def read(cls, point: wire.ScoredPoint | wire.RetrievedPoint, score: float = 0.0) -> Record:
        """Return a point of a message."""
        payload = grpc_to_payload(point.payload) if len(point.payload) else {}
        return cls(point.id.uuid, payload, _vectors(point.vectors) if point.HasField("vectors") else None, score)


def _vectors(vectors: wire.VectorsOutput) -> dict[str, Float32]:
    """Return the embeddings and the latents of a message, by name."""
    if vectors.WhichOneof("vectors_options") == "vector":
        return {DENSE: _rows(vectors.vector)}
    named = vectors.vectors.vectors
    return {name: _rows(named[name]) for name in named}


def _rows(vector: wire.VectorOutput) -> Float32:
    if vector.WhichOneof("vector") == "multi_dense":
        return np.stack([_values(row) for row in vector.multi_dense.vectors])
    return _values(vector.dense)


def _values(vector: wire.DenseVector) -> Float32:
    """Return the floats, which end the only field of the message."""
    message = vector.SerializeToString()
    return np.frombuffer(message, "<f4", offset=len(message) - 4 * len(vector.data))


def write_vector(message: wire.Vector | wire.VectorInput, vector: Float32 | Words) -> None:
    """Put a vector, rows or words into a message."""
    if isinstance(vector, Words):
        message.sparse.indices.extend(vector.ids)
        message.sparse.values.extend(vector.weights)
    elif vector.ndim == 1:
        message.dense.MergeFromString(_packed(vector))
    else:
        for row in vector:
            message.multi_dense.vectors.add().MergeFromString(_packed(row))


def _packed(vector: Float32) -> bytes:
    """Return a vector as `wire.DenseVector` is encoded: the tag of its only field, their length, the packed floats."""
    packed = vector.astype("<f4", copy=False).tobytes()
    length, tag = len(packed), bytearray(b"\x0a")
    while length > 0x7F:
        tag.append(length & 0x7F | 0x80)
        length >>= 7
    tag.append(length)
    return bytes(tag) + packed


def payload_selector(selection: Selection) -> wire.WithPayloadSelector:
    if isinstance(selection, bool):
        return wire.WithPayloadSelector(enable=selection)
    return wire.WithPayloadSelector(include=wire.PayloadIncludeSelector(fields=selection))


def vectors_selector(selection: Selection) -> wire.WithVectorsSelector:
    if isinstance(selection, bool):
        return wire.WithVectorsSelector(enable=selection)
    return wire.WithVectorsSelector(include=wire.VectorsSelector(names=selection))


def query_message(
    collection_name: str, request: Mapping[str, Any], limit: int, payload: Selection, vectors: Selection
) -> wire.QueryPoints:
    """Return a query of gRPC. `request` has the other arguments of `query_points`, its query as an array or words."""
    filter_, params, prefetch = request.get("query_filter"), request.get("search_params"), request.get("prefetch")
    message = wire.QueryPoints(
        collection_name=collection_name,
        prefetch=prefetch and [RestToGrpc.convert_prefetch_query(prefetch)],
        using=request.get("using"),
        filter=filter_ and RestToGrpc.convert_filter(filter_),
        params=params and RestToGrpc.convert_search_params(params),
        score_threshold=request.get("score_threshold"),
        read_consistency=consistency_message(request.get("consistency")),
        timeout=request.get("timeout"),
        limit=limit,
        with_payload=payload_selector(payload),
        with_vectors=vectors_selector(vectors),
    )
    write_vector(message.query.nearest, request["query"])
    return message


def consistency_message(consistency: q.ReadConsistencyType | None) -> wire.ReadConsistency | None:
    return None if consistency is None else RestToGrpc.convert_read_consistency(consistency)
