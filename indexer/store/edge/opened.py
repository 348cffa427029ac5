"""One open collection: its shard of Edge, what waits for a quiet moment, and how it is opened."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import qdrant_edge as qe

from indexer.errors import CollectionDamaged
from indexer.filters import FieldType
from indexer.store.base import Layout
from indexer.store.edge.build import REMOVED, Build, recover
from indexer.store.edge.filters import field_type
from indexer.store.edge.graph import NEVER_KB, Graph
from indexer.store.edge.pages import fill_beside
from indexer.store.edge.ranking import has_parts, vector_params
from indexer.store.edge.slices import Paused
from indexer.store.edge.summaries import bytes_on_disk
from indexer.store.payload import quoted
from indexer.store.search_terms import FORMAT
from indexer.store.vectors import DENSE, PARTS
from model.errors import RetrievalError

LOAD_WAIT_S = 5.0
# Of one shard. The engine would take eight: one for each segment that a search reads, of which there are one or two.
SEARCH_THREADS = 1
# What Edge says where the process may have no more threads or files.
NO_ROOM = ("thread pool", "Too many open files", "Cannot allocate memory")
# What it says where a shard has other vectors than it is loaded with.
_OTHER_VECTORS = "incompatible with existing segments"

# In the folder of a segment that is written to.
_APPENDABLE = "mutable_id_tracker.mappings"

MANY_DELETED = 0.2  # of the places for points in a shard; searches read them all
FEW_DELETED = 1_000  # not worth a build, however small the shard

# Vectors of a collection that is worth a graph: comparing them all takes some 1 ms. It is built anew when TAIL_BYTES
# were written since, which every search compares besides, in 0.3 ms. Of a large graph a fortieth, because each build
# writes all of it; where a graph did not pay, as many again as it has.
GRAPH_BYTES, TAIL_BYTES = 20 * 2**20, 5 * 2**20
GRAPH_SHARE, UNPAID_GRAPH_SHARE = 0.025, 1.0


@dataclass(slots=True)
class Upkeep:
    """`deleted` points whose space was not given back yet, the points `written` since the graph was built, and the
    payload indexes to make, by path."""

    deleted: int = 0
    written: int = 0
    due: dict[str, FieldType] = field(default_factory=dict)


@dataclass(slots=True)
class OpenShard:
    """One open collection. `unflushed` counts the points written since Edge's segments were last synchronised."""

    shard: Any
    path: Path  # of the shard
    layout: Layout
    indexed: dict[str, FieldType]  # by path
    upkeep: Upkeep
    graph: Graph | None = None
    build: Build | None = None
    unflushed: int = 0
    untidy: bool = False
    # The shard's own statistics of words count points that were deleted or replaced.
    removed: bool = False
    # Some document has, or had, several parts whose vectors are apart.
    has_parts: bool = False
    # On the disk, when it was flushed last.
    size_bytes: int = 0
    # The number of the call that used it last.
    used: int = 0
    # Fields of which some document has a list: the engine computes no formula with them.
    uncomputable: set[str] = field(default_factory=set)
    # Builds that failed one after another, what the last one lacked, and when the next may begin.
    failures: int = 0
    lacks: str | None = None
    retry_at: float = 0.0

    def check_changeable(self, name: str) -> None:
        """Raise `Paused` while a builder reads the files of the shard, or waits for the last write."""
        if self.build is not None and self.build.blocks_writes:
            raise Paused(f"collection {name} is being copied")

    @property
    def coming(self) -> dict[str, FieldType]:
        """The indexes that are not there yet."""
        return dict(self.upkeep.due)

    @property
    def dense(self) -> list[str]:
        """The names of the embeddings of documents, of which each has one."""
        return [DENSE, PARTS] if self.has_parts else [DENSE]

    @property
    def worn(self) -> bool:
        """A build would be worth its while."""
        deleted = self.upkeep.deleted
        places = self.shard.info().points_count + deleted
        many_deleted = deleted >= FEW_DELETED and deleted > MANY_DELETED * places
        return bool(self.upkeep.due) or many_deleted or self.wants_graph

    @property
    def wants_graph(self) -> bool:
        points = self.shard.info().points_count
        if self.graph is None:
            return self._bytes_of(points) >= GRAPH_BYTES
        share = UNPAID_GRAPH_SHARE if self.graph.ef is None else GRAPH_SHARE
        written = min(self.upkeep.written, points)
        return self._bytes_of(written) >= max(TAIL_BYTES, share * self._bytes_of(self.graph.points))

    @property
    def large(self) -> bool:
        """Its vectors are worth a graph."""
        return self._bytes_of(self.shard.info().points_count) >= GRAPH_BYTES

    def _bytes_of(self, points: int) -> int:
        return 4 * points * self.layout.dimensions


def open_shard(folder: Path) -> OpenShard:
    layout = read_layout(folder)
    path = recover(folder)
    shard = load_shard(path, layout)
    graph = Graph.read(path)
    if graph is not None:
        fill_beside(path)
    return OpenShard(
        shard,
        path,
        layout,
        indexes_of(shard),
        _upkeep(folder),
        graph,
        removed=counts_removed(path),
        has_parts=has_parts(path),
        size_bytes=bytes_on_disk(folder),
    )


def mark_removed(opened: OpenShard) -> None:
    if not opened.removed:
        opened.removed = True
        (opened.path / REMOVED).touch()


def counts_removed(shard: Path) -> bool:
    """Return whether the statistics of words may count points that are no longer there: loading a shard leaves them out
    of its appendable segments alone."""
    return (shard / REMOVED).exists() and not is_appendable(shard)


def is_appendable(shard: Path) -> bool:
    return all((segment / _APPENDABLE).exists() for segment in (shard / "segments").iterdir())


@contextmanager
def damage_named(name: str, folder: Path) -> Iterator[None]:
    """Raise `CollectionDamaged` for whatever keeps a collection from being opened: no document is at fault, nor another
    collection.
    """
    try:
        yield
    except RetrievalError:
        raise
    except BaseException as error:
        # A panic of the engine, while it opens files, leaves nothing half done in memory.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CollectionDamaged(
            f"collection {name} cannot be opened: {type(error).__name__}: {error}"[:300]
            + f". Its files in {folder} are damaged: restore a backup, or delete the collection and index it again",
            field="collection",
            value=name,
        ) from error


def load_shard(path: Path, layout: Layout) -> qe.EdgeShard:
    """Load a shard. Edge locks its log, and a process that was killed may hold that lock a moment longer than our own,
    so loading is retried. One that was killed while it added the vector of parts may have said so in one file alone."""
    parts, unsure = has_parts(path), layout.apart
    give_up_at = time.monotonic() + LOAD_WAIT_S
    while True:
        try:
            return qe.EdgeShard.load(str(path), shard_config(layout, parts))
        except Exception as error:
            if unsure and _OTHER_VECTORS in str(error):
                parts, unsure = not parts, False
                continue
            lacks_room = any(words in str(error) for words in NO_ROOM)
            if "WouldBlock" not in str(error) or lacks_room or time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def note_upkeep(opened: OpenShard) -> None:
    (opened.path.parent / "upkeep.json").write_text(json.dumps(asdict(opened.upkeep)))


def _upkeep(folder: Path) -> Upkeep:
    try:
        noted = json.loads((folder / "upkeep.json").read_text())
        due = {path: FieldType(kind) for path, kind in noted["due"].items()}
        return Upkeep(int(noted["deleted"]), int(noted.get("written", 0)), due)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        # Whatever stands there: it is an estimate.
        return Upkeep()


def read_layout(folder: Path) -> Layout:
    noted = json.loads((folder / "collection.json").read_text())
    format_ = noted.pop("format", 1)
    layout = Layout(**noted)
    if type(layout.dimensions) is not int:
        raise ValueError(f"collection.json has dimensions {layout.dimensions!r}")
    if format_ != FORMAT:
        raise CollectionDamaged(
            f"the collection in {folder} was filled by an earlier version of ret2, which stored metadata another way: "
            "delete it and index its documents again",
            field="collection",
        )
    return layout


def shard_config(layout: Layout, parts: bool = False) -> qe.EdgeConfig:
    optimizers = qe.EdgeOptimizersConfig(indexing_threshold=NEVER_KB)
    return qe.EdgeConfig(**vector_params(layout, parts=parts), optimizers=optimizers, max_search_threads=SEARCH_THREADS)


def indexes_of(shard: Any) -> dict[str, FieldType]:
    kinds = {quoted(path): field_type(index.data_type) for path, index in shard.info().payload_schema.items()}
    return {path: kind for path, kind in kinds.items() if kind is not None}
