"""The fake store in an SQLite file, for several processes at once: where a Qdrant server would be, of which none can be had offline."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fake_store import FakeStore

from indexer.domain.points import Part, Point
from indexer.store.base import Layout

Kept = tuple[Layout, MutableMapping[str, Point]]

_TABLES = """
    CREATE TABLE IF NOT EXISTS collections (name TEXT PRIMARY KEY, dimensions INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS points (collection TEXT, id TEXT, point TEXT NOT NULL, PRIMARY KEY (collection, id));
"""


class FileStore(FakeStore):
    """Each write is one transaction. A process that is killed loses nothing; a machine might."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = sqlite3.connect(file, timeout=60, isolation_level=None)
        self._file.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_TABLES}")
        self.kept = _Collections(self._file)  # type: ignore[assignment]

    async def close(self) -> None:
        self._file.close()


class _Collections(MutableMapping[str, Kept]):
    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Kept:
        row = self._file.execute("SELECT dimensions FROM collections WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise KeyError(name)
        return Layout(row[0], parts=True), _Points(self._file, name)

    def __setitem__(self, name: str, kept: Kept) -> None:
        self._file.execute("INSERT OR IGNORE INTO collections VALUES (?, ?)", (name, kept[0].dimensions))

    def __delitem__(self, name: str) -> None:
        self._file.execute("DELETE FROM points WHERE collection = ?", (name,))
        self._file.execute("DELETE FROM collections WHERE name = ?", (name,))

    def __iter__(self) -> Iterator[str]:
        return (row[0] for row in self._file.execute("SELECT name FROM collections"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Points(MutableMapping[str, Point]):
    def __init__(self, file: sqlite3.Connection, collection: str) -> None:
        self._file, self._collection = file, collection

    def __getitem__(self, key: str) -> Point:
        select = "SELECT point FROM points WHERE collection = ? AND id = ?"
        row = self._file.execute(select, (self._collection, key)).fetchone()
        if row is None:
            raise KeyError(key)
        return _read(row[0])

    def __setitem__(self, key: str, point: Point) -> None:
        self.update({key: point})

    def update(self, points: Any = (), /, **_: Point) -> None:
        rows: Iterable[tuple[str, str, str]] = [(self._collection, key, _write(one)) for key, one in points.items()]
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany("INSERT OR REPLACE INTO points VALUES (?, ?, ?)", rows)
        self._file.execute("COMMIT")

    def __delitem__(self, key: str) -> None:
        delete = "DELETE FROM points WHERE collection = ? AND id = ?"
        if not self._file.execute(delete, (self._collection, key)).rowcount:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        rows = self._file.execute("SELECT id FROM points WHERE collection = ?", (self._collection,))
        return iter([row[0] for row in rows])

    def __len__(self) -> int:
        count = self._file.execute("SELECT count(*) FROM points WHERE collection = ?", (self._collection,))
        return int(count.fetchone()[0])


def _write(point: Point) -> str:
    """Without what only some models give: shares and latents."""
    rest = (point.text, point.image_digest, dict(point.metadata), point.content_hash)
    parts = [point.more_images, [(part.start, part.end, part.image) for part in point.parts], point.vectors.tolist()]
    return json.dumps([point.document_id, point.vector.tolist(), *rest, parts])


def _read(row: str) -> Point:
    key, vector, *rest, (more_images, parts, vectors) = json.loads(row)
    point = Point(key, np.array(vector, np.float32), *rest, more_images=tuple(more_images))
    if not parts:
        return point
    return replace(point, parts=tuple(Part(*part) for part in parts), part_vectors=np.array(vectors, np.float32))
