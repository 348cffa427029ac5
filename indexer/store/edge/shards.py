"""Every collection under one folder as a Qdrant Edge shard. Blocking; used inside the process of `edge_process` alone.

FOLDER/<name>/collection.json        its layout, as `Layout`; a collection's folder appears whole, by one rename
FOLDER/<name>/shard/                 Edge's own files; `edge.build` says what may be beside them
FOLDER/<name>/upkeep.json            what waits for a quiet moment, as `Upkeep`; an estimate, it may be lost
FOLDER/.new-<name>  .gone-<name>     a creation, restoration or removal that was cut short, cleared at the next start
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import qdrant_edge as qe

from indexer.domain.documents import point_id
from indexer.domain.points import MetadataChange, Point
from indexer.durability import sync
from indexer.errors import PointsMissing
from indexer.filters import FieldType
from indexer.store.base import Layout, Summary
from indexer.store.edge import journal
from indexer.store.edge.batch import dimensions_apart, engine_points, pack
from indexer.store.edge.build import GONE, Build, recover
from indexer.store.edge.filters import INDEX_KINDS
from indexer.store.edge.graph import Graph
from indexer.store.edge.opened import (
    NO_ROOM,
    OpenShard,
    Upkeep,
    counts_removed,
    damage_named,
    indexes_of,
    is_appendable,
    load_shard,
    mark_removed,
    note_upkeep,
    open_shard,
    read_layout,
    shard_config,
)
from indexer.store.edge.pages import fill_beside
from indexer.store.edge.ranking import has_parts
from indexer.store.edge.reading import Reader
from indexer.store.edge.settings import EdgeSettings
from indexer.store.edge.slices import READS_PER_CALL
from indexer.store.edge.snapshot import copy, sync_folder, unpack
from indexer.store.edge.summaries import bytes_on_disk, forget_summary, read_summary, write_summary
from indexer.store.indexes import (
    READABLE_DOCUMENTS,
    declared_indexes,
)
from indexer.store.payload import (
    engine_name,
    payload_change,
)
from indexer.store.search_terms import FORMAT
from indexer.store.vectors import fits, new_layout
from model.errors import Conflict, DependencyUnavailable, InvalidInput, RetrievalError

MAX_DIMENSIONS = 65_535
FLUSH_EVERY_POINTS = 20_000  # bounds the log replayed after a crash (100,000 points: 1 s); a flush takes 0.1 to 0.4 s
MIN_FREE_BYTES = 64 * 2**20  # two files of Edge's log; on a full disk a write through a memory map kills the process

# How long one call writes, for which searches wait: while there are searches, and SEARCHED_S after the last one.
CALL_S, IDLE_CALL_S, SEARCHED_S = 0.002, 0.01, 1.0
MAX_CALL_POINTS = 256
# The share of the last call in the average.
_SMOOTHING = 0.3

# An index of so few points takes some 15 ms a field.
INDEXED_AT_ONCE = 1_000
# After a build that failed or found no room; doubled each time, up to an hour.
RETRY_S, MAX_RETRY_S = 10.0, 3_600.0


class Shards:
    """Collections are opened when used; of more than the settings say the one unused for longest is closed. Writes
    are on disk when they return."""

    def __init__(
        self,
        folder: Path,
        reads_per_call: int = READS_PER_CALL,
        readable_documents: int = READABLE_DOCUMENTS,
        settings: EdgeSettings | None = None,
    ) -> None:
        """`reads_per_call` and `readable_documents` are those of `Reader`."""
        self._folder = folder
        self.reader = Reader(self._opened, reads_per_call, readable_documents)
        self._open: dict[str, OpenShard] = {}
        # Of collections that are not open.
        self._summaries: dict[str, Summary] = {}
        self._uses = 0
        # What a point takes to be written, on the average of the last calls.
        self._point_s = 1e-4
        self._settings = settings or EdgeSettings()
        # Builders that remove what was in use.
        self._leaving: list[subprocess.Popen[bytes]] = []
        for leftover in [*folder.glob(".new-*"), *folder.glob(".gone-*")]:
            shutil.rmtree(leftover)

    def create(
        self,
        name: str,
        dimensions: int,
        indexes: Mapping[str, FieldType],
        language: str | None = None,
        latents: bool | None = None,
    ) -> None:
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise InvalidInput(
                f"dimensions is {dimensions}, limit is 1 to {MAX_DIMENSIONS}", field="dimensions", value=dimensions
            )
        final = self._path(name)
        if final.exists():
            fits(self._opened(name).layout, dimensions, language, latents, name)
        else:
            self._make(final, replace(new_layout(dimensions, language, latents), apart=True))
        if indexes:
            opened = self._opened(name)
            opened.check_changeable(name)
            planned = opened.indexed | opened.upkeep.due
            declared = declared_indexes(indexes).items()
            self._plan(opened, {path: kind for path, kind in declared if planned.get(path) != kind})

    def _make(self, final: Path, layout: Layout) -> None:
        self._check_free_space()
        new = self._anew(final)
        (new / "shard").mkdir()
        qe.EdgeShard.create(str(new / "shard"), shard_config(layout)).close()
        (new / "collection.json").write_text(json.dumps(asdict(layout) | {"format": FORMAT}))
        write_summary(new, Summary(layout, 0, bytes_on_disk(new), {}))
        for path in (new / "collection.json", new / "shard", new):
            sync(path)
        new.rename(final)
        sync(self._folder)

    def _anew(self, final: Path) -> Path:
        new = final.with_name(f".new-{final.name}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        return new

    def copy(self, name: str, to: Path) -> None:
        """Copy the present files of a collection to another folder."""
        opened = self._opened(name)
        opened.check_changeable(name)
        self._flush(opened)
        unfinished = () if opened.build is None else (opened.build.path.name, journal.NAME)
        copy(self._path(name), to, leave=(*unfinished, f"{GONE}*"))
        recover(to)

    def restore(self, name: str, file: Path) -> None:
        final = self._path(name)
        if final.exists():
            raise Conflict(f"collection {name} is there; drop it first", field="collection", value=name)
        self._check_free_space()
        new = self._anew(final)
        try:
            unpack(file, new)
            load_shard(new / "shard", _restored(new, file)).close()  # whether the engine can read it
            new.rename(final)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        sync(self._folder)

    def drop(self, name: str) -> None:
        final = self._path(name)
        self._close(name)
        self._summaries.pop(name, None)
        if final.exists():
            gone = final.with_name(f".gone-{final.name}")
            final.rename(gone)
            sync(self._folder)
            shutil.rmtree(gone)

    def layout(self, name: str) -> Layout:
        return self._opened(name).layout

    def writing(self, name: str) -> tuple[Layout, int]:
        """Return what a batch is made for: the layout, and how many points the next call should bring."""
        return self.layout(name), self._points_per_call()

    def upsert(self, name: str, points: Sequence[Point], durable: bool = True) -> None:
        layout = self.layout(name)
        self.write(name, layout, pack(points, layout), durable)

    def write(self, name: str, layout: Layout, batch: bytes, durable: bool) -> int:
        """Write points; with `durable` they are on disk then, and those that were written before. Return how many the
        next call should bring. Raises `Conflict` where the collection has another layout than the batch by now."""
        opened = self._opened(name)
        if opened.layout != layout:
            raise Conflict(f"collection {name} was made anew meanwhile: write again", field="collection", value=name)
        self._check_free_space()
        began = time.perf_counter()
        points = engine_points(batch)
        before = opened.shard.info().points_count
        with self._writing(name, opened, durable):
            if opened.build is not None:
                opened.build.upsert(batch, len(points))
            self._add_parts(opened, batch)
            opened.shard.update(qe.UpdateOperation.upsert_points(points))
            took_s = (time.perf_counter() - began) / max(1, len(points))
        self._point_s += _SMOOTHING * (took_s - self._point_s)
        if opened.shard.info().points_count < before + len(points):
            mark_removed(opened)
        opened.upkeep.written += len(points)
        self._wrote(opened, len(points))
        return self._points_per_call()

    def _add_parts(self, opened: OpenShard, batch: bytes) -> None:
        """Give the shard the vector of several parts, which it has from the first document that needs it."""
        if not opened.has_parts and (dimensions := dimensions_apart(batch)) is not None:
            opened.shard.update(journal.add_parts(dimensions))
            opened.has_parts = True

    def _points_per_call(self) -> int:
        """Return how many points take as long as a search may wait for them; more while nobody searches."""
        call_s = CALL_S if self.reader.idle_s < SEARCHED_S else IDLE_CALL_S
        return max(1, min(MAX_CALL_POINTS, round(call_s / self._point_s)))

    def set_metadata(self, name: str, changes: Sequence[MetadataChange]) -> None:
        """Replace the metadata of the points that are there: Edge refuses others."""
        self._check_free_space()
        payloads = {point_id(change.document_id): payload_change(change) for change in changes}
        opened = self._opened(name)
        if not is_appendable(opened.path):
            # A point of a segment that is not appendable moves to another one.
            mark_removed(opened)
        with self._writing(name, opened):
            present = {str(record.id) for record in opened.shard.retrieve(list(payloads), False, False)}
            payloads = {point: payload for point, payload in payloads.items() if point in present}
            if opened.build is not None:
                opened.build.set_payloads(payloads)
            for operation in journal.set_payloads(payloads):
                opened.shard.update(operation)
        # A point of a graph's segment moves out of it.
        opened.upkeep.written += len(payloads)
        self._wrote(opened, len(payloads))

    def delete(self, name: str, document_ids: Sequence[str]) -> None:
        opened = self._opened(name)
        ids = [point_id(document_id) for document_id in document_ids]
        before = opened.shard.info().points_count
        mark_removed(opened)
        with self._writing(name, opened):
            if opened.build is not None:
                opened.build.delete(ids)
            opened.shard.update(journal.delete(ids))
        opened.upkeep.deleted += before - opened.shard.info().points_count
        self._wrote(opened, len(ids))

    def summaries(self, names: Sequence[str]) -> dict[str, Summary | RetrievalError | None]:
        """Return what is said of each collection, without opening one; None where that is needed: see `summary`."""
        return {name: self._known_summary(name) for name in names}

    def summary(self, name: str) -> Summary:
        return _summary_of(self._opened(name))

    def _known_summary(self, name: str) -> Summary | RetrievalError | None:
        if name in self._open:
            # Not as a use: a list leaves open what is searched.
            return _summary_of(self._open[name])
        if name not in self._summaries:
            folder = self._path(name)
            if not folder.exists():
                return _unknown(name)
            if (summary := read_summary(folder)) is None:
                return None
            self._summaries[name] = summary
        return self._summaries[name]

    def ping(self) -> None:
        """Answer, to show that the process is alive."""

    @property
    def untidy(self) -> bool:
        return any(opened.untidy for opened in self._open.values())

    @property
    def waiting(self) -> bool:
        """Whether all that is to be done waits: for the builder, or to be tried again."""
        return not any(self._can_step(opened) for opened in self._open.values() if opened.untidy)

    def tidy(self, quiet: bool = True) -> None:
        """Do one step of deferred work for one collection after the other; no search waits for longer than a step. With
        `quiet` nobody is waiting, so segments are synchronised too."""
        name = next(name for name, candidate in self._open.items() if candidate.untidy)
        opened = self._open[name] = self._open.pop(name)  # it is the last to have its turn again
        try:
            opened.untidy = self._step(opened, quiet)
        except Exception as error:
            self._give_up(opened, error)
            raise

    def _can_step(self, opened: OpenShard) -> bool:
        if opened.build is not None:
            return opened.build.finished
        return not opened.worn or (time.monotonic() >= opened.retry_at and not self._building)

    @property
    def _building(self) -> bool:
        return any(opened.build is not None for opened in self._open.values())

    def _step(self, opened: OpenShard, quiet: bool) -> bool:
        """Do one step for a collection, and return whether there is more to do."""
        if opened.build is not None:
            opened.build.step()
            if opened.build.finished:
                self._change_over(opened, opened.build)
        elif opened.worn and time.monotonic() >= opened.retry_at and not self._building:
            self._begin(opened)
        elif quiet and opened.unflushed:
            self._flush(opened)
            return opened.worn
        else:
            return not quiet or opened.worn
        return True

    def _begin(self, opened: OpenShard) -> None:
        # The copy, and what is built from it, beside the shard.
        self._check_free_space(2 * bytes_on_disk(opened.path))
        self._flush(opened)
        opened.build = Build(
            opened.path,
            opened.layout,
            opened.indexed | opened.upkeep.due,
            graph=opened.large,
            threads=self._settings.threads,
            quantization=self._settings.quantization,
        )
        opened.lacks = None

    def _give_up(self, opened: OpenShard, error: Exception) -> None:
        """Abandon what is being built, and try again later."""
        if opened.build is not None:
            opened.build.abandon()
            opened.build = None
        opened.lacks = str(error)
        opened.retry_at = time.monotonic() + min(RETRY_S * 2**opened.failures, MAX_RETRY_S)
        opened.failures += 1

    def _change_over(self, opened: OpenShard, build: Build) -> None:
        """Open the finished shard in place of the one in use. Others wait meanwhile."""
        shard = load_shard(build.path, opened.layout)
        build.change_over()
        old = opened.shard
        opened.shard, opened.path, opened.build = shard, build.path, None
        opened.indexed, opened.graph = indexes_of(shard), Graph.read(build.path)
        if opened.graph is not None:
            fill_beside(build.path)
        opened.removed = counts_removed(build.path)
        opened.has_parts = has_parts(build.path)
        opened.unflushed = opened.failures = 0
        opened.upkeep = Upkeep(build.deleted, build.written, _unmade(opened.upkeep.due, opened.indexed))
        self._forget_wrong(opened, opened.upkeep.due)
        note_upkeep(opened)
        old.close()
        build.remove_used()
        self._leaving = [process for process in (*self._leaving, build.process) if process.poll() is None]

    def close(self) -> None:
        for name in list(self._open):
            self._close(name)
        for process in self._leaving:
            process.wait()

    def _opened(self, name: str) -> OpenShard:
        if name not in self._open:
            folder = self._path(name)
            if not folder.exists():
                raise _unknown(name)
            while len(self._open) >= self._settings.max_open and self._close_least_used():
                pass
            with damage_named(name, folder):
                opened = self._open[name] = self._opened_with_room(name, folder)
            self._summaries.pop(name, None)
            forget_summary(folder)
            opened.untidy = opened.worn
        self._uses += 1
        self._open[name].used = self._uses
        return self._open[name]

    def _opened_with_room(self, name: str, folder: Path) -> OpenShard:
        """Open a collection, closing others where the process may have no more threads or files."""
        while True:
            try:
                return open_shard(folder)
            except BaseException as error:
                if not any(words in str(error) for words in NO_ROOM):
                    raise
                if not self._close_least_used():
                    raise DependencyUnavailable(
                        f"collection {name} cannot be opened, for the process may have no more threads or files: "
                        f"{error}"[:300]
                    ) from error

    def _close_least_used(self) -> bool:
        """Close the collection unused for longest, one that needs upkeep after the others and none that is being
        built. Return whether there was one."""
        names = [name for name, candidate in self._open.items() if candidate.build is None]
        if not names:
            return False
        self._close(min(names, key=lambda name: (self._open[name].worn, self._open[name].used)))
        return True

    def _close(self, name: str) -> None:
        if name in self._open:
            opened = self._open.pop(name)
            note_upkeep(opened)
            documents = opened.shard.info().points_count
            opened.shard.close()  # flushes
            if opened.build is not None:
                opened.build.abandon()
            folder = self._path(name)
            summary = Summary(opened.layout, documents, bytes_on_disk(folder), opened.indexed)
            write_summary(folder, summary)
            self._summaries[name] = summary

    def _path(self, name: str) -> Path:
        return self._folder / engine_name(name)

    @contextmanager
    def _writing(self, name: str, opened: OpenShard, durable: bool = True) -> Iterator[None]:
        """Write within, and synchronise if that is asked for. Edge writes its log through a memory map: synchronising
        those files (6 ms) makes the write survive a power loss; flushing all segments (80 to 200 ms) would only shorten
        the log. Raises `Paused` while the shard may not change."""
        opened.check_changeable(name)
        try:
            yield
            if durable:
                sync_folder(opened.path / "wal")
        except Exception:
            self._close(name)  # memory may be ahead of the log: opened again, it is what the log says
            self._summaries.pop(name, None)
            forget_summary(self._path(name))
            raise

    def _wrote(self, opened: OpenShard, points: int) -> None:
        opened.untidy = True
        opened.unflushed += points
        if opened.unflushed >= FLUSH_EVERY_POINTS:
            self._flush(opened)

    def _flush(self, opened: OpenShard) -> None:
        opened.shard.flush()
        opened.unflushed = 0
        opened.size_bytes = bytes_on_disk(opened.path.parent)
        note_upkeep(opened)

    def _plan(self, opened: OpenShard, indexes: Mapping[str, FieldType]) -> None:
        """Index at once where there are few points, else by a build."""
        self._forget_wrong(opened, indexes)
        opened.upkeep.due |= indexes
        if opened.build is None and opened.shard.info().points_count <= INDEXED_AT_ONCE:
            for path, kind in opened.upkeep.due.items():
                opened.shard.update(qe.UpdateOperation.create_field_index(path, INDEX_KINDS[kind]))
                opened.indexed[path] = kind
            opened.upkeep.due.clear()
        opened.untidy |= bool(indexes)

    def _forget_wrong(self, opened: OpenShard, indexes: Mapping[str, FieldType]) -> None:
        """Drop indexes of another kind at once, because they may answer wrongly. Without an index Edge reads the
        payloads."""
        for path, kind in indexes.items():
            if opened.indexed.get(path, kind) != kind:
                del opened.indexed[path]
                opened.shard.update(qe.UpdateOperation.delete_field_index(path))

    def _check_free_space(self, extra_bytes: int = 0) -> None:
        free, needed = shutil.disk_usage(self._folder).free, MIN_FREE_BYTES + extra_bytes
        if free < needed:
            raise DependencyUnavailable(f"disk is full: {free} bytes free at {self._folder}, {needed} needed")


def _summary_of(opened: OpenShard) -> Summary:
    graph = ("(graph)",) if opened.build is not None and opened.build.graph else ()
    waits = () if opened.lacks is None else (f"(waits: {opened.lacks})",)
    points = opened.shard.info().points_count
    return Summary(opened.layout, points, opened.size_bytes, dict(opened.indexed), graph + waits)


def _unknown(name: str) -> PointsMissing:
    return PointsMissing(f"the store has no points of collection {name}")


def _unmade(due: Mapping[str, FieldType], indexed: Mapping[str, FieldType]) -> dict[str, FieldType]:
    return {path: kind for path, kind in due.items() if indexed.get(path) != kind}


def _restored(folder: Path, file: Path) -> Layout:
    try:
        return read_layout(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} is not a snapshot of a collection", field="snapshot", value=str(file)) from error
