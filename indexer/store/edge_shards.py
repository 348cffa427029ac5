"""Every collection under one folder as a Qdrant Edge shard. Blocking; used inside the process of `edge_process` alone.

FOLDER/<name>/collection.json        its layout, as `Layout`; a collection's folder appears whole, by one rename
FOLDER/<name>/shard/                 Edge's own files
FOLDER/.new-<name>  .gone-<name>     a creation, restoration or removal that was cut short, cleared at the next start
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qe

from indexer.filters import FieldType, Filter
from indexer.lexical import check_language
from indexer.ranking import Criterion, Ranked
from indexer.records import Hit, Page, Point, point_id
from indexer.store import Layout
from indexer.store.edge_rank import rank, sparse, vector_params
from indexer.store.edge_search import INDEX_KINDS, ranked, to_edge
from indexer.store.edge_snapshot import copy, sync_folder, unpack
from indexer.store.edge_snapshot import sync as _sync
from indexer.store.indexes import missing
from indexer.store.payload import digests, engine_name, hit_of, path_of, payload_of, point_of, quoted
from indexer.store.vectors import DENSE, LATENTS, fits, just_below, unit, unpacked, vectors_of
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound
from model.inputs import Float32

MAX_DIMENSIONS = 65_535
LOAD_WAIT_S = 5.0
FLUSH_EVERY_POINTS = 20_000  # bounds the log replayed after a crash (100,000 points: 1 s); a flush takes 0.1 to 0.4 s
MIN_FREE_BYTES = 64 * 2**20  # two files of Edge's log; on a full disk a write through a memory map kills the process

# No HNSW. An index built in bounded steps needs small segments, and many small graphs are no faster than the exact scan:
# of 256 dimensions, 50,000 points take 2.8 ms exact and 3.3 ms in 25 graphs, 200,000 take 12 ms and 13 ms in 98 graphs, which
# took 77 s to build in steps of up to 1.5 s. `optimize()` is left with giving back the space of deleted points.
NEVER_KB = 2**40


@dataclass(slots=True)
class _Open:
    """One open collection. `unflushed` counts the points written since Edge's segments were last synchronised."""

    shard: Any
    wal: Path
    layout: Layout
    indexed: dict[str, FieldType]  # by path
    unflushed: int = 0
    untidy: bool = False


class Shards:
    """Collections are opened when first used. Writes are on disk when they return."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, _Open] = {}
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
            self._make(final, Layout(dimensions, language and check_language(language), bool(latents)))
        if indexes:
            opened = self._opened(name)
            declared = {path_of(field): kind for field, kind in indexes.items()}
            absent = {path: kind for path, kind in declared.items() if opened.indexed.get(path) != kind}
            self._make_indexes(opened, absent)

    def _make(self, final: Path, layout: Layout) -> None:
        self._check_free_space()
        new = self._anew(final)
        (new / "shard").mkdir()
        qe.EdgeShard.create(str(new / "shard"), _config(layout)).close()
        (new / "collection.json").write_text(json.dumps(asdict(layout)))
        for path in (new / "collection.json", new / "shard", new):
            _sync(path)
        new.rename(final)
        _sync(self._folder)

    def _anew(self, final: Path) -> Path:
        new = final.with_name(f".new-{final.name}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        return new

    def copy(self, name: str, to: Path) -> None:
        """The collection's files as they are now, to a folder of its own."""
        self._flush(self._opened(name))
        copy(self._path(name), to)

    def restore(self, name: str, file: Path) -> None:
        final = self._path(name)
        if final.exists():
            raise Conflict(f"collection {name} is there; drop it first", field="collection", value=name)
        self._check_free_space()
        new = self._anew(final)
        try:
            unpack(file, new)
            _load(new / "shard", _restored(new, file)).close()  # whether the engine can read it
            new.rename(final)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        _sync(self._folder)

    def drop(self, name: str) -> None:
        final = self._path(name)
        self._close(name)
        if final.exists():
            gone = final.with_name(f".gone-{final.name}")
            final.rename(gone)
            _sync(self._folder)
            shutil.rmtree(gone)

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        layout = self._opened(name).layout
        self._check_free_space()
        written = [qe.Point(point_id(p.document_id), vectors_of(p, layout, sparse), payload_of(p)) for p in points]
        self._write(name, qe.UpdateOperation.upsert_points(written), len(written))

    def delete(self, name: str, document_ids: Sequence[str]) -> None:
        self._write(
            name, qe.UpdateOperation.delete_points([point_id(each) for each in document_ids]), len(document_ids)
        )

    def read(self, name: str, ids: Sequence[str], with_latents: bool = False) -> list[Point | None]:
        opened = self._opened(name)
        parts = [DENSE, LATENTS] if with_latents and opened.layout.latents else [DENSE]
        records = opened.shard.retrieve(list(set(ids)), True, parts)
        points = {str(each.id): point_of(each.payload, *unpacked(each.vector)) for each in records}
        return [points.get(each) for each in ids]

    def search(
        self,
        name: str,
        vector: Float32,
        limit: int,
        offset: int,
        condition: Filter | None,
        score_threshold: float | None,
        with_vector: bool,
    ) -> list[Hit]:
        opened = self._opened(name)
        query = unit(vector, opened.layout.dimensions, "the query").tolist()
        if limit < 0 or offset < 0:
            raise InvalidInput(f"limit is {limit} and offset is {offset}, the least is 0")
        if condition is not None:
            self._index(opened, condition)
        chosen = None if condition is None else to_edge(condition)
        threshold = None if score_threshold is None else just_below(score_threshold)
        nearest = qe.Query.Nearest(query)
        page = ranked(opened.shard, offset + limit, query=nearest, filter=chosen, score_threshold=threshold)[offset:]
        parts = [DENSE] if with_vector else False
        records = {str(each.id): each for each in opened.shard.retrieve([key for key, _ in page], True, parts)}
        vectors = {key: np.asarray(each.vector, np.float32) for key, each in records.items() if with_vector}
        return [hit_of(records[key].payload, score, vectors.get(key)) for key, score in page]

    def rank(self, name: str, by: Criterion, limit: int, condition: Filter | None) -> Ranked:
        opened = self._opened(name)
        if limit < 0:
            raise InvalidInput(f"limit is {limit}, the least is 0")
        if condition is not None:
            self._index(opened, condition)
        chosen = None if condition is None else to_edge(condition)
        return rank(opened.shard, name, opened.layout, by, limit, chosen)

    def layout(self, name: str) -> Layout:
        return self._opened(name).layout

    def count(self, name: str) -> int:
        return int(self._opened(name).shard.count(qe.CountRequest(exact=True)))

    def page(self, name: str, after: str | None, limit: int, condition: Filter | None) -> Page:
        """Edge is asked from a point on, that one included: `after` is the first of the next page."""
        opened = self._opened(name)
        if condition is not None:
            self._index(opened, condition)
        chosen = None if condition is None else to_edge(condition)
        request = qe.ScrollRequest(
            offset=after, limit=limit, filter=chosen, with_payload=["document_id"], with_vector=False
        )
        records, following = opened.shard.scroll(request)
        return Page(
            tuple(each.payload["document_id"] for each in records), None if following is None else str(following)
        )

    def size_bytes(self, name: str) -> int:
        """What the files take up: Edge's have large holes."""
        self._opened(name)
        return sum(path.lstat().st_blocks * 512 for path in self._path(name).rglob("*"))

    def images(self, name: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Edge is asked from a point on, that one included: `after` is the first of the next page."""
        request = qe.ScrollRequest(offset=after, limit=limit, with_payload=["image_digest"], with_vector=False)
        records, following = self._opened(name).shard.scroll(request)
        return digests(each.payload for each in records), None if following is None else str(following)

    def ping(self) -> None:
        """That an answer comes is the answer."""

    @property
    def untidy(self) -> bool:
        return any(each.untidy for each in self._open.values())

    def tidy(self) -> None:
        """What can wait for a quiet moment, one collection at a time."""
        opened = next(each for each in self._open.values() if each.untidy)
        opened.untidy = False  # also if it fails: the next write tries again
        opened.shard.optimize()
        self._flush(opened)

    def close(self) -> None:
        for name in list(self._open):
            self._close(name)

    def _opened(self, name: str) -> _Open:
        if name not in self._open:
            folder = self._path(name)
            if not folder.exists():
                raise NotFound(f"there is no collection {name} in the store", field="collection", value=name)
            layout = _layout(folder)
            shard = _load(folder / "shard", layout)
            schema = {quoted(path): _kind(each.data_type) for path, each in shard.info().payload_schema.items()}
            indexed = {path: kind for path, kind in schema.items() if kind is not None}
            self._open[name] = _Open(shard, folder / "shard" / "wal", layout, indexed)
        return self._open[name]

    def _close(self, name: str) -> None:
        if name in self._open:
            self._open.pop(name).shard.close()  # flushes

    def _path(self, name: str) -> Path:
        return self._folder / engine_name(name)

    def _write(self, name: str, operation: Any, points: int) -> None:
        """Edge writes its log through a memory map. Syncing those files (6 ms) makes a write outlive the machine's power;
        flushing all segments (80 to 200 ms) only shortens the log, and waits."""
        opened = self._opened(name)
        try:
            opened.shard.update(operation)
            sync_folder(opened.wal)
        except Exception:
            self._close(name)  # memory may be ahead of the log: opened again, it is what the log says
            raise
        opened.untidy = True
        opened.unflushed += points
        if opened.unflushed >= FLUSH_EVERY_POINTS:
            self._flush(opened)

    def _flush(self, opened: _Open) -> None:
        opened.shard.flush()
        opened.unflushed = 0

    def _index(self, opened: _Open, condition: Filter) -> None:
        """A field is indexed when a filter first names it: of 50,000 points, 0.5 s once makes 120 ms a search 1 to 3 ms."""
        self._make_indexes(opened, missing(condition, opened.indexed))

    def _make_indexes(self, opened: _Open, indexes: Mapping[str, FieldType]) -> None:
        for path, kind in indexes.items():
            if path in opened.indexed:
                opened.shard.update(qe.UpdateOperation.delete_field_index(path))
            opened.shard.update(qe.UpdateOperation.create_field_index(path, INDEX_KINDS[kind]))
            opened.indexed[path] = kind
            opened.untidy = True

    def _check_free_space(self) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < MIN_FREE_BYTES:
            raise DependencyUnavailable(f"disk is full: {free} bytes free at {self._folder}, {MIN_FREE_BYTES} needed")


def _config(layout: Layout) -> qe.EdgeConfig:
    return qe.EdgeConfig(**vector_params(layout), optimizers=qe.EdgeOptimizersConfig(indexing_threshold=NEVER_KB))


def _load(path: Path, layout: Layout) -> qe.EdgeShard:
    """Edge locks its log: a process that was killed may hold it a moment longer than our own lock."""
    give_up_at = time.monotonic() + LOAD_WAIT_S
    while True:
        try:
            return qe.EdgeShard.load(str(path), _config(layout))
        except Exception as error:
            if "WouldBlock" not in str(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def _layout(folder: Path) -> Layout:
    return Layout(**json.loads((folder / "collection.json").read_text()))


def _restored(folder: Path, file: Path) -> Layout:
    try:
        return _layout(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} is not a snapshot of a collection", field="snapshot", value=str(file)) from error


def _kind(data_type: object) -> FieldType | None:
    return next((kind for kind, each in INDEX_KINDS.items() if each == data_type), None)
