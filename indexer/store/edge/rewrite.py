"""Rewrite a shard beside the one in use, a few points at a time, to build indexes and to reclaim the space of deleted
points.

Edge's own ways, `create_field_index` and `optimize`, block its process until they are done: 1.5 s a field and 1.6 s at
100,000 points. An index made on an empty shard costs nothing but a little with each point, and points that were deleted
are not copied.

FOLDER/shard  FOLDER/shard.new       one is in use, the other is being written or absent
FOLDER/moved                         if it exists, `shard.new` is in use until the collection is opened again
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qdrant_edge as qe

from indexer.durability import sync
from indexer.filters import FieldType
from indexer.store.edge.filters import INDEX_KINDS

# A search waits for one step. 200 points of 256 dimensions took 117 ms (p95 238) on a machine with nine times its cores
# in use.
STEP_POINTS = 100
# Often enough that the last flush, which comes with the change over, is as short as the earlier ones.
FLUSH_EVERY_STEPS = 20

_NAMES = ("shard", "shard.new")
_MOVED = "moved"


class Rewrite:
    """A new shard in the making. Every write goes to both shards until `step` returns that it has copied the last
    point.
    """

    def __init__(self, used: Path, config: qe.EdgeConfig, indexes: Mapping[str, FieldType], left_out: int) -> None:
        """Begin to rewrite the shard at the path `used`, which contains `left_out` deleted points."""
        self._used = used
        self.path = used.with_name(next(name for name in _NAMES if name != used.name))
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        self.shard: Any = qe.EdgeShard.create(str(self.path), config)
        self.indexed = dict(indexes)  # by path
        for path, kind in indexes.items():
            self.shard.update(qe.UpdateOperation.create_field_index(path, INDEX_KINDS[kind]))
        self.left_out = left_out
        self._after: Any = None
        self._steps = 0

    def step(self, used: Any) -> bool:
        """Copy the next points of the shard in use, in the order of their ids, which no write changes. Return whether
        they were the last.
        """
        request = qe.ScrollRequest(offset=self._after, limit=STEP_POINTS, with_payload=True, with_vector=True)
        records, self._after = used.scroll(request)
        if records:
            points = [qe.Point(record.id, record.vector, record.payload) for record in records]
            self.shard.update(qe.UpdateOperation.upsert_points(points))
        self._steps += 1
        if self._after is None or self._steps % FLUSH_EVERY_STEPS == 0:
            self.shard.flush()
        return self._after is None

    def change_over(self) -> None:
        """Make the flushed new shard the one that the collection is opened with from now on."""
        for path in (*(entry for entry in self.path.rglob("*") if entry.is_dir()), self.path):
            sync(path)
        _mark_current(self.path)

    def abandon(self) -> None:
        _mark_current(self._used)  # before the other is removed: a change-over may have got half way
        self.shard.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _mark_current(shard: Path) -> None:
    moved = shard.with_name(_MOVED)
    if shard.name == _NAMES[1]:
        moved.touch()
    else:
        moved.unlink(missing_ok=True)
    sync(shard.parent)


def recover(folder: Path) -> Path:
    """Return the shard of a collection that nobody has open, moved to its usual place, and remove unfinished
    rewrites."""
    shard, new = (folder / name for name in _NAMES)
    moved = folder / _MOVED
    if moved.exists():
        if new.exists():  # else the last time ended behind the next line but one
            shutil.rmtree(shard, ignore_errors=True)
            new.rename(shard)
            sync(folder)
        moved.unlink()
        sync(folder)
    shutil.rmtree(new, ignore_errors=True)
    return shard
