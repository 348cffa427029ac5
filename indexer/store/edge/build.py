"""A shard in the making: the serving process's end of `edge.builder`, and what a folder holds while there is one.

FOLDER/shard  FOLDER/shard.new       one is in use, the other is being built or absent
FOLDER/moved                         if it exists, `shard.new` is in use until the collection is opened again
FOLDER/journal                       the writes since the shard in use was copied
FOLDER/.gone-<pid>                   a shard that was in use, while it is removed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from indexer.durability import sync
from indexer.filters import FieldType
from indexer.store.base import Layout
from indexer.store.edge import child, journal
from indexer.store.edge.journal import Journal
from indexer.store.edge.settings import Quantization
from model.child_output import ending
from model.errors import DependencyUnavailable

# A filter that leaves fewer vectors than this is answered exactly, and has no links of its own in the graph.
FULL_SCAN_KB = 10_000

_NAMES = ("shard", "shard.new")
_MOVED = "moved"
GONE = ".gone-"
# In a shard's folder: points of it were deleted or replaced.
REMOVED = "removed"

# What the builder does now. It says when a stage is over, and waits for the word to finish.
Stage = Literal["copying", "building", "ready", "finishing", "finished"]
COPIED, READY, FINISHED = "copied", "ready", "finished"
FINISH, REMOVE = "finish", "remove"


@dataclass(frozen=True, slots=True)
class Order:
    """What to build, as the builder's argument: a copy of the shard `used` at `path`, without its deleted points, with
    these payload indexes by path, and with a graph if it is worth one.
    """

    used: str
    path: str
    layout: Layout
    indexes: Mapping[str, FieldType]
    graph: bool
    threads: int
    quantization: Quantization
    full_scan_kb: int

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Order:
        fields = json.loads(text)
        layout = Layout(**fields.pop("layout"))
        indexes = {path: FieldType(kind) for path, kind in fields.pop("indexes").items()}
        return cls(layout=layout, indexes=indexes, **fields)


class Build:
    """One run of the builder. Whoever made it takes its steps, and abandons it or makes its shard the one in use."""

    def __init__(
        self,
        used: Path,
        layout: Layout,
        indexes: Mapping[str, FieldType],
        *,
        graph: bool,
        threads: int,
        quantization: Quantization,
    ) -> None:
        """Begin with the shard at `used`, flushed. It may not be written to while `blocks_writes`."""
        self._used = used
        self.path = used.with_name(next(name for name in _NAMES if name != used.name))
        self.indexes = indexes  # by path
        self.graph = graph
        # Since the copy.
        self.written = self.deleted = 0
        self.stage: Stage = "copying"
        self._journal = Journal(used.with_name(journal.NAME))
        order = Order(str(used), str(self.path), layout, indexes, graph, threads, quantization, FULL_SCAN_KB)
        try:
            self.process, self._pipe = child.start("indexer.store.edge.builder", [order.dump()])
        except OSError as error:
            raise DependencyUnavailable(f"the process that builds indexes cannot start: {error}") from error

    @property
    def blocks_writes(self) -> bool:
        return self.stage in ("copying", "finishing")

    @property
    def finished(self) -> bool:
        return self.stage == "finished"

    def upsert(self, batch: bytes, points: int) -> None:
        self._journal.upsert(batch, points)
        self.written += points

    def delete(self, ids: list[str]) -> None:
        self._journal.delete(ids)
        self.deleted += len(ids)

    def set_payloads(self, payloads: Mapping[str, dict[str, Any]]) -> None:
        self._journal.set_payloads(payloads)
        self.written += len(payloads)

    def step(self) -> None:
        """Take note of what the builder says, and let it finish when it is ready. Raises `DependencyUnavailable` for
        one that has ended."""
        try:
            while self._pipe.poll():
                said = self._pipe.recv()
                if said == COPIED:
                    self.stage = "building"
                elif said == READY:
                    self._pipe.send(FINISH)
                    self.stage = "finishing"
                elif said == FINISHED:
                    self.stage = "finished"
                else:
                    raise DependencyUnavailable(f"building the index failed: {said}")
        except (EOFError, OSError) as error:
            raise DependencyUnavailable(f"the process that builds indexes ended: {ending(self.process)}") from error

    def change_over(self) -> None:
        """Make the finished shard the one that the collection is opened with from now on."""
        mark_current(self.path)

    def remove_used(self) -> None:
        """Remove, by the builder, the shard that was in use, now closed, and end."""
        self._used.rename(self._used.with_name(f"{GONE}{self.process.pid}"))
        self._end(REMOVE)

    def abandon(self) -> None:
        # Before the other is removed: a change-over may have got half way.
        mark_current(self._used)
        self.process.kill()
        self._end()
        self.process.wait()
        shutil.rmtree(self.path, ignore_errors=True)

    def _end(self, word: str | None = None) -> None:
        try:
            if word is not None:
                self._pipe.send(word)
        except OSError:
            # It is gone: the folder is cleared before the next build.
            pass
        self._pipe.close()
        self._journal.close()
        self._used.with_name(journal.NAME).unlink(missing_ok=True)


def mark_current(shard: Path) -> None:
    moved = shard.with_name(_MOVED)
    if shard.name == _NAMES[1]:
        moved.touch()
    else:
        moved.unlink(missing_ok=True)
    sync(shard.parent)


def recover(folder: Path) -> Path:
    """Return the shard of a collection that nobody has open, moved to its usual place, and remove unfinished builds."""
    shard, new = (folder / name for name in _NAMES)
    moved = folder / _MOVED
    if moved.exists():
        if new.exists():  # else the last time ended behind the next line but one
            shutil.rmtree(shard, ignore_errors=True)
            new.rename(shard)
            sync(folder)
        moved.unlink()
        sync(folder)
    for leftover in (new, *folder.glob(f"{GONE}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    (folder / journal.NAME).unlink(missing_ok=True)
    return shard
