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
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import qdrant_edge as qe

from indexer.domain.documents import point_id
from indexer.domain.points import Hit, MetadataChange, Page, Point, Stretch
from indexer.durability import sync
from indexer.filters import FieldType, Filter
from indexer.store.base import Layout, SearchWindow, Summary
from indexer.store.boosts import boosted, candidates_of, read_fields
from indexer.store.columns import FieldUse, Row, row_of, selectors
from indexer.store.criteria import (
    Boosted,
    Criterion,
    FilterBoost,
    Hybrid,
    LateInteraction,
    Nearest,
    Place,
    Ranked,
    WordMatch,
)
from indexer.store.edge import journal
from indexer.store.edge.boosts import formula as boost_formula
from indexer.store.edge.build import GONE, Build, recover
from indexer.store.edge.filters import INDEX_KINDS, sliced, to_edge
from indexer.store.edge.graph import Graph, GraphSearch
from indexer.store.edge.journal import Written, listed
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
from indexer.store.edge.ranking import rank, rank_by_formula
from indexer.store.edge.settings import EdgeSettings
from indexer.store.edge.slices import READS_PER_CALL, Slice, Slices
from indexer.store.edge.snapshot import copy, sync_folder, unpack
from indexer.store.edge.summaries import bytes_on_disk, forget_summary, read_summary, write_summary
from indexer.store.fusion import fuse, places
from indexer.store.indexes import (
    READABLE_DOCUMENTS,
    answered,
    check_kinds,
    declared_indexes,
    index_for,
    refuse_reading,
    refuse_use,
    unanswered,
)
from indexer.store.payload import (
    IMAGE_FIELDS,
    digests,
    engine_name,
    hit_of,
    path_of,
    payload_change,
    payload_of,
    point_of,
)
from indexer.store.search_terms import FORMAT
from indexer.store.vectors import DENSE, LATENTS, fits, just_below, new_layout, unpacked, vectors_of
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound, RetrievalError
from model.types import Float32

MAX_DIMENSIONS = 65_535
FLUSH_EVERY_POINTS = 20_000  # bounds the log replayed after a crash (100,000 points: 1 s); a flush takes 0.1 to 0.4 s
MIN_FREE_BYTES = 64 * 2**20  # two files of Edge's log; on a full disk a write through a memory map kills the process

# Values of vectors that one call reads: some 50 ms, for which searches wait.
CALL_VALUES = 500_000
# Points of one step of such a call.
READ_POINTS = 16

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
        """`reads_per_call` bounds the payloads that a filter reads in one call: over it, the answer is `Slices`. A
        filter that would read those of more than `readable_documents` is refused."""
        self._folder = folder
        self._reads_per_call = reads_per_call
        self._readable_documents = readable_documents
        self._open: dict[str, OpenShard] = {}
        # Of collections that are not open.
        self._summaries: dict[str, Summary] = {}
        self._uses = 0
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
            self._make(final, new_layout(dimensions, language, latents))
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

    def upsert(self, name: str, points: Sequence[Point], durable: bool = True) -> None:
        """Write points; with `durable` they are on disk then, and those that were written before."""
        opened = self._opened(name)
        self._check_free_space()
        written = [
            Written(point_id(p.document_id), listed(vectors_of(p, opened.layout)), payload_of(p)) for p in points
        ]
        operation = journal.upsert(written)
        before = opened.shard.info().points_count
        with self._writing(name, opened, durable):
            if opened.build is not None:
                opened.build.upsert(written)
            opened.shard.update(operation)
        if opened.shard.info().points_count < before + len(written):
            mark_removed(opened)
        opened.upkeep.written += len(written)
        self._wrote(opened, len(written))

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

    def read(
        self, name: str, ids: Sequence[str], with_latents: bool = False, with_vectors: bool = True
    ) -> list[Point | None]:
        """Return the points of the first ids, as many as keep the call short: at least one, and all of most calls."""
        opened = self._opened(name)
        vectors = [DENSE, LATENTS] if with_latents and opened.layout.latents else [DENSE]
        points: list[Point | None] = []
        values = 0
        while len(points) < len(ids) and values < CALL_VALUES:
            step = ids[len(points) : len(points) + READ_POINTS]
            records = opened.shard.retrieve(list(set(step)), True, vectors if with_vectors else False)
            read = {str(record.id): _point(record, with_vectors) for record in records}
            points += [read.get(point) for point in step]
            values += sum(point.vectors.size for point in read.values())
        return points

    def search(self, name: str, criterion: Criterion, window: SearchWindow) -> list[Hit] | Slices:
        ranking = self.rank(name, criterion, window)
        return ranking if isinstance(ranking, Slices) else self.hits(name, ranking, window.with_vector)

    def hits(self, name: str, ranking: Sequence[Place], with_vector: bool) -> list[Hit]:
        """Return the hits of a ranking, without the documents deleted since."""
        parts = [DENSE] if with_vector else False
        retrieved = self._opened(name).shard.retrieve([place.point_id for place in ranking], True, parts)
        records = {str(record.id): record for record in retrieved}
        vectors = {point: unpacked(record.vector).vector for point, record in records.items() if with_vector}
        return [
            hit_of(records[place.point_id].payload, place, vectors.get(place.point_id))
            for place in ranking
            if place.point_id in records
        ]

    def best_parts(self, name: str, vector: Float32, ids: Sequence[str]) -> list[tuple[int, Float32] | None]:
        """Return the nearest part of the first ids, as many as keep the call short: at least one."""
        shard = self._opened(name).shard
        nearest: list[tuple[int, Float32] | None] = []
        values = 0
        while len(nearest) < len(ids) and values < CALL_VALUES:
            step = ids[len(nearest) : len(nearest) + READ_POINTS]
            records = shard.retrieve(list(set(step)), False, [DENSE])
            stored = {str(record.id): unpacked(record.vector) for record in records}
            nearest += [stored[point].best(vector) if point in stored else None for point in step]
            values += sum(vectors.vectors.size for vectors in stored.values())
        return nearest

    def rank(self, name: str, criterion: Criterion, window: SearchWindow) -> list[Place] | Slices:
        """Rank the collection, unless that reads too many payloads for one call."""
        if isinstance(criterion, Boosted):
            return self._boosted(name, criterion, window)
        if not isinstance(criterion, Hybrid):
            ranked = self.ranked(name, criterion, window)
            return ranked if isinstance(ranked, Slices) else places(criterion, ranked)
        window.check()
        candidates = replace(window, limit=criterion.candidates, offset=0, score_threshold=None)
        embedding = self.ranked(name, criterion.embedding, candidates, whole=True)
        words = self.ranked(name, criterion.words, candidates)
        if isinstance(embedding, Slices) or isinstance(words, Slices):
            return embedding if isinstance(embedding, Slices) else cast(Slices, words)
        return fuse(criterion, embedding, words, window)

    def _boosted(self, name: str, criterion: Boosted, window: SearchWindow) -> list[Place] | Slices:
        window.check()
        if isinstance(criterion.ranking, Nearest):
            by_engine = self._by_formula(name, criterion, criterion.ranking, window)
            if by_engine is not None:
                return by_engine
        ranking = self.rank(name, criterion.ranking, candidates_of(criterion, window))
        return ranking if isinstance(ranking, Slices) else self.boost(name, criterion, ranking, window)

    def _by_formula(
        self, name: str, criterion: Boosted, nearest: Nearest, window: SearchWindow
    ) -> list[Place] | Slices | None:
        """Rank by the engine's formula, half as dear as to read metadata. None where that cannot be computed."""
        opened = self._opened(name)
        fields = [boost.field for boost in criterion.boosts if not isinstance(boost, FilterBoost)]
        formula = boost_formula(criterion.boosts, opened.indexed)
        if formula is None or not opened.uncomputable.isdisjoint(fields):
            return None
        chosen = self._chosen(opened, window.condition, None)
        if isinstance(chosen, Slices):
            return chosen
        reads = window.condition is not None and unanswered(window.condition, opened.indexed) > 0
        graph = None if reads else GraphSearch.of(opened.graph, window)
        try:
            ranked = rank_by_formula(
                opened.shard, opened.layout, nearest, formula, criterion.candidates, window.end, chosen, graph
            )
        except Exception:  # noqa: BLE001  the engine raises no other class
            # The engine names no reason. What else may be wrong shows where metadata are read.
            opened.uncomputable.update(fields)
            return None
        return places(nearest, window.cut(ranked))

    def boost(self, name: str, criterion: Boosted, ranking: Sequence[Place], window: SearchWindow) -> list[Place]:
        """Boost places, already chosen, by reading their metadata."""
        paths = selectors(read_fields(criterion.boosts))
        rows = self.rows(name, [place.point_id for place in ranking], paths, False)
        return boosted(criterion, ranking, {row.point_id: row.metadata for row in rows}, window)

    def ranked(
        self,
        name: str,
        criterion: Nearest | WordMatch | LateInteraction,
        window: SearchWindow,
        part: Slice | None = None,
        *,
        whole: bool = False,
    ) -> Ranked | Slices:
        """Rank a part of the collection by one criterion, or all of it unless that reads too many payloads. A `whole`
        window is the only one of its ranking, so one search of a graph gives all of it."""
        opened = self._opened(name)
        window.check()
        chosen = self._chosen(opened, window.condition, part)
        if isinstance(chosen, Slices):
            return chosen
        # A graph is walked by what indexes say: where payloads are read, all that is left is compared.
        reads = window.condition is not None and unanswered(window.condition, opened.indexed) > 0
        threshold = None
        if window.score_threshold is not None and isinstance(criterion, Nearest):
            threshold = just_below(window.score_threshold)
        graph = None if reads else GraphSearch.of(opened.graph, window)
        if graph is not None and whole:
            graph = graph.for_all(window.end)
        return window.cut(
            rank(
                opened.shard,
                name,
                opened.layout,
                criterion,
                window.end,
                chosen,
                threshold,
                graph,
                removed=opened.removed,
            )
        )

    def rerank(self, name: str, criterion: LateInteraction, window: SearchWindow, point_ids: Sequence[str]) -> Ranked:
        """Rank these points, already chosen."""
        opened = self._opened(name)
        among = qe.Filter(must=[qe.HasIdCondition(set(point_ids))])
        return window.cut(rank(opened.shard, name, opened.layout, criterion, window.end, among))

    def _reads(self, opened: OpenShard, condition: Filter) -> int:
        """Return how often a search with it reads a payload, about; 4 us each. Raises `InvalidInput` for too many."""
        shard, indexed = opened.shard, opened.indexed
        conditions = unanswered(condition, indexed)
        if not conditions:
            return 0
        points = int(shard.info().points_count)
        if points > min(self._readable_documents, self._reads_per_call // conditions):
            narrowed = to_edge(answered(condition, indexed))
            points = int(shard.count(qe.CountRequest(exact=False, filter=narrowed)))
        if points > self._readable_documents:
            refuse_reading(condition, indexed, opened.coming, points, self._readable_documents)
        return points * conditions

    def layout(self, name: str) -> Layout:
        return self._opened(name).layout

    def count(self, name: str, condition: Filter | None = None, part: Slice | None = None) -> int | Slices:
        """Count in a part of the collection, or in all of it unless that reads too many payloads."""
        opened = self._opened(name)
        if condition is None:
            return int(opened.shard.info().points_count)
        chosen = self._chosen(opened, condition, part)
        if isinstance(chosen, Slices):
            return chosen
        return int(opened.shard.count(qe.CountRequest(exact=True, filter=chosen)))

    def _chosen(self, opened: OpenShard, condition: Filter | None, part: Slice | None) -> Any:
        """Return the filter in the engine's terms, or in how many slices to ask instead."""
        if condition is None:
            return None
        check_kinds(condition, opened.indexed)
        if part is not None:
            return sliced(to_edge(condition), part)
        slices = Slices(-(-self._reads(opened, condition) // self._reads_per_call))
        return slices if slices.total > 1 else to_edge(condition)

    def page(self, name: str, after: str | None, limit: int, condition: Filter | None) -> Page:
        """Return a page of points, as `_stretch` does."""
        records, following = self._stretch(name, after, limit, condition, ["document_id"], False)
        return Page(tuple(record.payload["document_id"] for record in records), following)

    def scroll(self, name: str, after: str | None, limit: int, condition: Filter | None, with_vectors: bool) -> Stretch:
        """Return a page of whole points, as `_stretch` does."""
        records, following = self._stretch(name, after, limit, condition, True, [DENSE] if with_vectors else False)
        return Stretch(tuple(_point(record, with_vectors) for record in records), following)

    def _stretch(
        self,
        name: str,
        after: str | None,
        limit: int,
        condition: Filter | None,
        with_payload: bool | list[str],
        with_vector: bool | list[str],
    ) -> tuple[list[Any], str | None]:
        """Return a page of records and the `after` of the next page, which is its first id, because Edge's scroll
        includes its offset. A condition that reads payloads is evaluated on a stretch of points, so the page may have
        fewer than `limit`."""
        opened = self._opened(name)
        chosen, end = None, None
        if condition is not None:
            check_kinds(condition, opened.indexed)
            chosen = to_edge(condition)
            if self._reads(opened, condition):
                length = max(1, self._reads_per_call // unanswered(condition, opened.indexed))
                ids = qe.ScrollRequest(offset=after, limit=length, with_payload=False, with_vector=False)
                stretch, end = opened.shard.scroll(ids)
                chosen = qe.Filter(should=[qe.HasIdCondition({record.id for record in stretch})], must=[chosen])
        request = qe.ScrollRequest(
            offset=after, limit=limit, filter=chosen, with_payload=with_payload, with_vector=with_vector
        )
        records, following = opened.shard.scroll(request)
        following = end if following is None else following
        return records, None if following is None else str(following)

    def index_for(self, name: str, use: FieldUse, condition: Filter | None) -> FieldType | None:
        opened = self._opened(name)
        if condition is not None:
            check_kinds(condition, opened.indexed)
        reads = 0 if condition is None else self._reads(opened, condition)
        kind = index_for(use, opened.indexed)
        if kind is None and (points := self._left(opened, condition)) > self._readable_documents:
            refuse_use(use, opened.indexed, opened.coming, points, self._readable_documents)
        return None if reads else kind

    def rows(self, name: str, ids: Sequence[str], paths: Sequence[str], with_vectors: bool) -> list[Row]:
        records = self._opened(name).shard.retrieve(list(ids), list(paths), [DENSE] if with_vectors else False)
        return [_row(record, with_vectors) for record in records]

    def scan(
        self, name: str, after: str | None, limit: int, condition: Filter | None, paths: list[str]
    ) -> tuple[list[Row], str | None]:
        records, following = self._stretch(name, after, limit, condition, paths, False)
        return [_row(record) for record in records], following

    def facet(self, name: str, field: str, condition: Filter | None, limit: int, exact: bool) -> list[tuple[Any, int]]:
        """Count the values of a field. The condition is one that indexes answer."""
        shard = self._opened(name).shard
        counted = _facet(shard, field, None, limit, exact=False)
        # The engine counts every value, in a tenth of the time of an exact call or less, and only of ten times `limit`
        # values or more some alone. So all counts are exact where the field has fewer than `limit` values.
        exact = exact and len(counted) >= limit
        if condition is None and not exact:
            return counted
        return _facet(shard, field, condition, limit, exact=exact)

    def ordered(
        self,
        name: str,
        field: str,
        condition: Filter | None,
        limit: int,
        descending: bool,
        start: float | datetime | None,
        paths: list[str],
    ) -> list[Row]:
        """Return rows by the values of a field. The condition is one that indexes answer."""
        begin = start.isoformat() if isinstance(start, datetime) else start
        direction = qe.Direction.Desc if descending else qe.Direction.Asc
        request = qe.ScrollRequest(
            limit=limit,
            filter=None if condition is None else to_edge(condition),
            with_payload=paths,
            with_vector=False,
            order_by=qe.OrderBy(path_of(field), direction, begin),
        )
        return [_row(record) for record in self._opened(name).shard.scroll(request)[0]]

    def _left(self, opened: OpenShard, condition: Filter | None) -> int:
        """Return how many points the indexed parts of a condition leave, about."""
        points = int(opened.shard.info().points_count)
        if condition is None or points <= self._readable_documents:
            return points
        narrowed = to_edge(answered(condition, opened.indexed))
        return int(opened.shard.count(qe.CountRequest(exact=False, filter=narrowed)))

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

    def images(self, name: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return a page of image digests, as `_stretch` does."""
        records, following = self._stretch(name, after, limit, None, IMAGE_FIELDS, False)
        return digests(record.payload for record in records), following

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
        opened.removed = counts_removed(build.path)
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


def _facet(shard: Any, field: str, condition: Filter | None, limit: int, *, exact: bool) -> list[tuple[Any, int]]:
    chosen = None if condition is None else to_edge(condition)
    request = qe.FacetRequest(path_of(field), limit=limit, exact=exact, filter=chosen)
    return [(hit.value, hit.count) for hit in shard.facet(request).hits]


def _row(record: Any, with_vector: bool = False) -> Row:
    return row_of(str(record.id), record.payload, unpacked(record.vector).vector if with_vector else None)


def _point(record: Any, with_vectors: bool) -> Point:
    return point_of(record.payload, unpacked(record.vector)) if with_vectors else point_of(record.payload)


def _summary_of(opened: OpenShard) -> Summary:
    graph = ("(graph)",) if opened.build is not None and opened.build.graph else ()
    waits = () if opened.lacks is None else (f"(waits: {opened.lacks})",)
    points = opened.shard.info().points_count
    return Summary(opened.layout, points, opened.size_bytes, dict(opened.indexed), graph + waits)


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no collection {name} in the store", field="collection", value=name)


def _unmade(due: Mapping[str, FieldType], indexed: Mapping[str, FieldType]) -> dict[str, FieldType]:
    return {path: kind for path, kind in due.items() if indexed.get(path) != kind}


def _restored(folder: Path, file: Path) -> Layout:
    try:
        return read_layout(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} is not a snapshot of a collection", field="snapshot", value=str(file)) from error
