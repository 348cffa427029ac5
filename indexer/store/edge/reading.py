"""Searches, counts and pages over the collections of `edge.shards`. Nothing here writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import qdrant_edge as qe

from indexer.domain.documents import Metadata
from indexer.domain.points import Hit, Page, Point, Stretch
from indexer.filters import Equals, FieldType, Filter
from indexer.store.base import SearchWindow
from indexer.store.boosts import boosted, candidates_of, fields_of_several_values, read_fields
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
from indexer.store.edge.boosts import formula as boost_formula
from indexer.store.edge.filters import sliced, to_edge
from indexer.store.edge.graph import GraphSearch
from indexer.store.edge.opened import (
    OpenShard,
)
from indexer.store.edge.ranking import rank, rank_by_formula
from indexer.store.edge.slices import Slice, Slices
from indexer.store.fusion import fuse, places
from indexer.store.indexes import (
    answered,
    check_kinds,
    index_for,
    refuse_reading,
    refuse_use,
    unanswered,
)
from indexer.store.payload import (
    IMAGE_FIELDS,
    digests,
    hit_of,
    path_of,
    point_of,
)
from indexer.store.vectors import LATENTS, just_below, unpacked
from model.types import Float32

# Values of vectors that one call reads: some 50 ms, for which searches wait.
CALL_VALUES = 500_000
# Points of one step of such a call.
READ_POINTS = 16


class Reader:
    """What `Shards` answers without a write. `open_shard` returns the open shard of a collection."""

    def __init__(self, open_shard: Callable[[str], OpenShard], reads_per_call: int, readable_documents: int) -> None:
        """`reads_per_call` bounds the payloads that a filter reads in one call: over it, the answer is `Slices`. A
        filter that would read those of more than `readable_documents` is refused."""
        self._open_shard = open_shard
        self._last_read_at = -math.inf
        self._reads_per_call = reads_per_call
        self._readable_documents = readable_documents

    @property
    def idle_s(self) -> float:
        """The time since the last read."""
        return time.monotonic() - self._last_read_at

    def _opened(self, name: str) -> OpenShard:
        self._last_read_at = time.monotonic()
        return self._open_shard(name)

    def read(
        self, name: str, ids: Sequence[str], with_latents: bool = False, with_vectors: bool = True
    ) -> list[Point | None]:
        """Return the points of the first ids, as many as keep the call short: at least one, and all of most calls."""
        opened = self._opened(name)
        vectors = [*opened.dense, LATENTS] if with_latents and opened.layout.latents else opened.dense
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
        opened = self._opened(name)
        parts = opened.dense if with_vector else False
        retrieved = opened.shard.retrieve([place.point_id for place in ranking], True, parts)
        records = {str(record.id): record for record in retrieved}
        vectors = {point: unpacked(record.vector).vector for point, record in records.items() if with_vector}
        return [
            hit_of(records[place.point_id].payload, place, vectors.get(place.point_id))
            for place in ranking
            if place.point_id in records
        ]

    def best_parts(self, name: str, vector: Float32, ids: Sequence[str]) -> list[tuple[int, Float32] | None]:
        """Return the nearest part of the first ids, as many as keep the call short: at least one."""
        opened = self._opened(name)
        nearest: list[tuple[int, Float32] | None] = []
        values = 0
        while len(nearest) < len(ids) and values < CALL_VALUES:
            step = ids[len(nearest) : len(nearest) + READ_POINTS]
            records = opened.shard.retrieve(list(set(step)), False, opened.dense)
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
        threshold = None
        if window.score_threshold is not None and isinstance(criterion, Nearest):
            threshold = just_below(window.score_threshold)
        graph = _graph(opened, window)
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
                parts=opened.has_parts,
            )
        )

    def rerank(self, name: str, criterion: LateInteraction, window: SearchWindow, point_ids: Sequence[str]) -> Ranked:
        """Rank these points, already chosen."""
        opened = self._opened(name)
        among = qe.Filter(must=[qe.HasIdCondition(set(point_ids))])
        return window.cut(rank(opened.shard, name, opened.layout, criterion, window.end, among))

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
        if formula is None or opened.has_parts or not opened.uncomputable.isdisjoint(fields):
            return None
        chosen = self._chosen(opened, window.condition, None)
        if isinstance(chosen, Slices):
            return chosen
        graph = _graph(opened, window)
        try:
            ranked = rank_by_formula(
                opened.shard, opened.layout, nearest, formula, criterion.candidates, window.end, chosen, graph
            )
        except Exception:  # noqa: BLE001  the engine raises no other class
            # The engine names no reason. What else may be wrong shows where metadata are read, and may pass.
            return self._by_metadata(name, criterion, nearest, window)
        return places(nearest, window.cut(ranked))

    def _by_metadata(
        self, name: str, criterion: Boosted, nearest: Nearest, window: SearchWindow
    ) -> list[Place] | Slices:
        """Boost by metadata, and note the fields with lists, so that no formula with them is tried again."""
        ranking = self.rank(name, nearest, candidates_of(criterion, window))
        if isinstance(ranking, Slices):
            return ranking
        metadata = self._metadata(name, criterion, ranking)
        self._opened(name).uncomputable.update(fields_of_several_values(criterion.boosts, metadata.values()))
        return boosted(criterion, ranking, metadata, window)

    def boost(self, name: str, criterion: Boosted, ranking: Sequence[Place], window: SearchWindow) -> list[Place]:
        """Boost places, already chosen, by reading their metadata."""
        return boosted(criterion, ranking, self._metadata(name, criterion, ranking), window)

    def _metadata(self, name: str, criterion: Boosted, ranking: Sequence[Place]) -> dict[str, Metadata]:
        paths = selectors(read_fields(criterion.boosts))
        rows = self.rows(name, [place.point_id for place in ranking], paths, False)
        return {row.point_id: row.metadata for row in rows}

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
        vectors = self._opened(name).dense if with_vectors else False
        records, following = self._stretch(name, after, limit, condition, True, vectors)
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
        opened = self._opened(name)
        records = opened.shard.retrieve(list(ids), list(paths), opened.dense if with_vectors else False)
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

    def images(self, name: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return a page of image digests, as `_stretch` does."""
        records, following = self._stretch(name, after, limit, None, IMAGE_FIELDS, False)
        return digests(record.payload for record in records), following


def _facet(shard: Any, field: str, condition: Filter | None, limit: int, *, exact: bool) -> list[tuple[Any, int]]:
    chosen = None if condition is None else to_edge(condition)
    request = qe.FacetRequest(path_of(field), limit=limit, exact=exact, filter=chosen)
    return [(hit.value, hit.count) for hit in shard.facet(request).hits]


def _row(record: Any, with_vector: bool = False) -> Row:
    return row_of(str(record.id), record.payload, unpacked(record.vector).vector if with_vector else None)


def _point(record: Any, with_vectors: bool) -> Point:
    return point_of(record.payload, unpacked(record.vector)) if with_vectors else point_of(record.payload)


def _graph(opened: OpenShard, window: SearchWindow) -> GraphSearch | None:
    """Return the search of the graph. It is walked by what indexes say: where payloads are read, there is none, and all
    that the filter leaves is compared."""
    if window.condition is not None and unanswered(window.condition, opened.indexed):
        return None
    search = GraphSearch.of(opened.graph, window)
    # A single value has links of its own in the graph.
    if search is None or window.ef is not None or window.condition is None or isinstance(window.condition, Equals):
        return search
    remaining = opened.shard.count(qe.CountRequest(exact=False, filter=to_edge(window.condition)))
    return search.among(int(remaining), int(opened.shard.info().points_count))
