"""The writes to a collection while its next shard is being built: one file, written by the process that serves and read
by the one that builds.

An entry is a method and its points in the engine's terms, as MessagePack. It is not synchronised to disk: after a power
loss the build begins anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import qdrant_edge as qe

from indexer.store.bm25 import Words
from indexer.store.vectors import DENSE, WORDS
from model.types import Float32

NAME = "journal"
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Written:
    """A point as it is written. Its sparse vector is a pair of ids and weights."""

    id: str
    vectors: Any
    payload: dict[str, Any]


def listed(vectors: Mapping[str, Float32 | Words]) -> Any:
    """Return vectors as MessagePack writes them; those of a point without words and latents have no name."""
    lists: dict[str, Any] = {
        name: (vector.ids, vector.weights) if isinstance(vector, Words) else vector.tolist()
        for name, vector in vectors.items()
    }
    return lists if len(lists) > 1 else lists[DENSE]


def upsert(points: Sequence[Written]) -> qe.UpdateOperation:
    return qe.UpdateOperation.upsert_points(
        [qe.Point(point.id, _engine_vectors(point.vectors), point.payload) for point in points]
    )


def delete(ids: Sequence[str]) -> qe.UpdateOperation:
    return qe.UpdateOperation.delete_points(list(ids))


def set_payloads(payloads: Mapping[str, dict[str, Any]]) -> list[qe.UpdateOperation]:
    """Return what replaces parts of payloads, by point id. Edge refuses points that it does not have."""
    return [qe.UpdateOperation.set_payload([point], payload) for point, payload in payloads.items()]


def _engine_vectors(vectors: Any) -> Any:
    if not isinstance(vectors, dict):
        return vectors
    return {
        name: qe.SparseVector(list(vector[0]), list(vector[1])) if name.startswith(WORDS) else vector
        for name, vector in vectors.items()
    }


class Journal:
    """The end that is written to."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, so that the reader sees whole entries but for the last.
        self._file = path.open("wb", buffering=0)

    def upsert(self, points: Sequence[Written]) -> None:
        self._write(["upsert", [[point.id, point.vectors, point.payload] for point in points]])

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

    def operations(self) -> Iterator[tuple[qe.UpdateOperation, int]]:
        """Yield what is written so far and was not read yet, but for an entry that is not whole: each operation with
        the number of points that it brings."""
        while data := self._file.read(_READ_BYTES):
            self._unpacker.feed(data)
            for method, entry in self._unpacker:
                match method:
                    case "upsert":
                        yield upsert([Written(*point) for point in entry]), len(entry)
                    case "delete":
                        yield delete(entry), 0
                    case "set_payloads":
                        yield from ((operation, 0) for operation in set_payloads(entry))

    def close(self) -> None:
        self._file.close()
