"""The writes to a collection while its next shard is being built: one file, written by the process that serves and read
by the one that builds.

An entry is a method and its points, as MessagePack. It is not synchronised to disk: after a power loss the build begins
anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import qdrant_edge as qe

from indexer.store.edge.batch import dimensions_apart, engine_points
from indexer.store.vectors import PARTS

NAME = "journal"
_READ_BYTES = 2**20


def upsert(batch: bytes) -> qe.UpdateOperation:
    return qe.UpdateOperation.upsert_points(engine_points(batch))


def add_parts(dimensions: int) -> qe.UpdateOperation:
    """Add the vector of documents of several parts, where it is not there yet."""
    several = qe.MultiVectorConfig(qe.MultiVectorComparator.MaxSim)
    return qe.UpdateOperation.create_dense_vector(
        PARTS,
        dimensions,
        qe.Distance.Cosine,
        multivector_config=several,
        datatype=qe.VectorStorageDatatype.Float32,
    )


def delete(ids: Sequence[str]) -> qe.UpdateOperation:
    return qe.UpdateOperation.delete_points(list(ids))


def set_payloads(payloads: Mapping[str, dict[str, Any]]) -> list[qe.UpdateOperation]:
    """Return what replaces parts of payloads, by point id. Edge refuses points that it does not have."""
    return [qe.UpdateOperation.set_payload([point], payload) for point, payload in payloads.items()]


class Journal:
    """The end that is written to."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, so that the reader sees whole entries but for the last.
        self._file = path.open("wb", buffering=0)

    def upsert(self, batch: bytes, points: int) -> None:
        self._write(["upsert", [batch, points]])

    def delete(self, ids: Sequence[str]) -> None:
        self._write(["delete", list(ids)])

    def set_payloads(self, payloads: Mapping[str, dict[str, Any]]) -> None:
        self._write(["set_payloads", payloads])

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: list[Any]) -> None:
        data = memoryview(msgpack.packb(entry))
        while data:
            data = data[self._file.write(data) :]


class JournalReader:
    """The end that is read from. Whoever made it closes it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._unpacker = msgpack.Unpacker(max_buffer_size=0, strict_map_key=False)

    @property
    def unread_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size - int(self._unpacker.tell())

    def operations(self) -> Iterator[tuple[qe.UpdateOperation, int | None]]:
        """Yield what is written so far and was not read yet, but for an entry that is not whole: each operation with
        the number of points that it brings, None where it removes or moves points."""
        while data := self._file.read(_READ_BYTES):
            self._unpacker.feed(data)
            for method, entry in self._unpacker:
                match method:
                    case "upsert":
                        batch, points = entry
                        if (dimensions := dimensions_apart(batch)) is not None:
                            yield add_parts(dimensions), 0
                        yield upsert(batch), points
                    case "delete":
                        yield delete(entry), None
                    case "set_payloads":
                        yield from ((operation, None) for operation in set_payloads(entry))

    def close(self) -> None:
        self._file.close()
