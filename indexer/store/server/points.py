"""The points of one collection on a Qdrant server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qdrant_client import models as q

from indexer.domain.documents import point_id
from indexer.domain.points import Hit, MetadataChange, Page, Point, Stretch
from indexer.errors import CollectionUnavailable, CollectionWriteUnanswered, WriteUnanswered
from indexer.filters import Filter
from indexer.store.base import Consistency, Layout, SearchWindow
from indexer.store.boosts import boosted, candidates_of, read_fields
from indexer.store.criteria import Boosted, Criterion, Hybrid, LateInteraction, Nearest, Place, Ranked, WordMatch
from indexer.store.fusion import fuse, places
from indexer.store.indexes import answered, check_kinds, refuse_reading, unanswered
from indexer.store.measure import measured
from indexer.store.payload import IMAGE_FIELDS, digests, hit_of, payload_change, point_of
from indexer.store.server.addresses import Unreachable
from indexer.store.server.columns import ServerColumns
from indexer.store.server.description import Description
from indexer.store.server.errors import StrictMode, translating_errors
from indexer.store.server.filters import to_server
from indexer.store.server.graph import GraphSearch
from indexer.store.server.messages import Record, Selection
from indexer.store.server.ranking import asked
from indexer.store.server.writing import calls, storable, written
from indexer.store.ties import in_order, is_complete, query_limits, words_spare
from indexer.store.vectors import DENSE, LATENTS, just_below, unpacked
from model.errors import DependencyUnavailable, InvalidInput
from model.types import Float32

if TYPE_CHECKING:
    from indexer.store.server.store import ServerStore

FETCH_POINTS = 256  # of one read of payloads
READ_POINTS = 64  # of one read of vectors: those of 64 parts are some 200 kB as JSON

_CONSISTENCY: dict[Consistency, q.ReadConsistencyType | None] = {
    "one": None,
    "majority": q.ReadConsistencyType.MAJORITY,
    "quorum": q.ReadConsistencyType.QUORUM,
    "all": q.ReadConsistencyType.ALL,
}
_Records = dict[str, Record]
# Of the payloads and the vectors.
_Parts = tuple[Selection, Selection]
_NOTHING: _Parts = (False, False)


class ServerPoints:
    """The points of one collection; `NotFound` on use if the collection does not exist."""

    def __init__(self, store: ServerStore, name: str) -> None:
        self._store = store
        self.watch = store.watch
        self._client = store.client
        self._name = name
        self._engine_name = store.engine_name(name)

    @measured
    async def upsert(self, points: Sequence[Point]) -> None:
        """Checked all before the first is sent; a failure between two calls is mended by repeating the whole."""
        description = await self._store.describe(self._name)
        most = min(self._store.settings.upsert_points, description.strict.upsert_points)
        for part in calls(written(points, description.layout), most):
            try:
                async with self._noticing_changes(), self._writing("upsert"):
                    done = await self._client.write_points(self._engine_name, part, description.ordering)
                    _check_done(done)
            except StrictMode as error:
                # No document is at fault.
                raise CollectionUnavailable(error.detail) from error

    @asynccontextmanager
    async def _writing(self, doing: str) -> AsyncIterator[None]:
        """Translate the errors of a write. Raises `WriteUnanswered` for one that was sent, which names the shards that
        are waited for."""
        try:
            async with self._store.naming_shards(self._name):
                with translating_errors(doing):
                    yield
        except Unreachable:
            # Nothing was sent.
            raise
        except CollectionUnavailable as error:
            raise CollectionWriteUnanswered(error.detail) from error
        except DependencyUnavailable as error:
            raise WriteUnanswered(error.detail) from error

    @asynccontextmanager
    async def _noticing_changes(self) -> AsyncIterator[None]:
        """Raise `CollectionDamaged` for a refused call if the collection was changed since it was described."""
        try:
            yield
        except InvalidInput:
            await self._store.describe(self._name, fresh=True)
            raise

    @measured
    async def set_metadata(self, changes: Sequence[MetadataChange]) -> None:
        """Replace metadata. A server refuses points that it does not have, so it is asked first which it has."""
        description = await self._store.describe(self._name)
        payloads = {point_id(change.document_id): payload_change(change) for change in changes}
        for payload in payloads.values():
            storable(payload)
        ids = list(payloads)
        size = min(self._store.settings.upsert_points, description.strict.upsert_points)
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            with translating_errors("retrieve"):
                present = await self._client.read_records(self._engine_name, part, *_NOTHING)
            operations: list[Any] = [
                q.SetPayloadOperation(set_payload=q.SetPayload(payload=payloads[record.id], points=[record.id]))
                for record in present
            ]
            if operations:
                async with self._writing("batch_update_points"):
                    done = await self._client.batch_update_points(
                        self._engine_name, operations, wait=True, ordering=description.ordering
                    )
                    for result in done:
                        _check_done(result.status)

    @measured
    async def delete(self, document_ids: Sequence[str]) -> None:
        description = await self._store.describe(self._name)
        ids: list[Any] = [point_id(document_id) for document_id in document_ids]
        if ids:
            selected = q.PointIdsList(points=ids)
            async with self._writing("delete"):
                done = await self._client.delete(self._engine_name, selected, wait=True, ordering=description.ordering)
                _check_done(done.status)

    @measured
    async def fetch(
        self, document_ids: Sequence[str], *, with_latents: bool = False, with_vectors: bool = True
    ) -> list[Point | None]:
        """Return whole points. Vectors come back at length 1, whatever length they had."""
        layout = (await self._store.describe(self._name)).layout
        parts = [DENSE, LATENTS] if with_latents and layout.latents else [DENSE]
        ids = [point_id(document_id) for document_id in document_ids]
        records = await self._retrieve(list(dict.fromkeys(ids)), parts if with_vectors else False)
        points = {point: _point(record, with_vectors) for point, record in records.items()}
        return [points.get(point) for point in ids]

    @measured
    async def search(self, criterion: Criterion, window: SearchWindow) -> list[Hit]:
        parts: Selection = [DENSE] if window.with_vector else False
        # The first page comes whole with its ranking; of a later one the hits before it would come for nothing, and by
        # words those of equal scores behind it.
        comes_whole = window.offset == 0 and not isinstance(criterion, WordMatch)
        whole: _Parts = (True, parts) if comes_whole else _NOTHING
        records: _Records = {}
        if isinstance(criterion, Boosted):
            ranking = await self._boosted(criterion, window)
        elif isinstance(criterion, Hybrid):
            ranking = await self._fused(criterion, window)
        else:
            ranked, records = await self._rank(criterion, window, whole)
            ranking = places(criterion, ranked)
        absent = [place.point_id for place in ranking if place.point_id not in records]
        records |= await self._retrieve(absent, parts, window.consistency)
        return _hits(ranking, records, window.with_vector)

    @measured
    async def rank(self, criterion: Criterion, window: SearchWindow) -> list[Place]:
        if isinstance(criterion, Boosted):
            return await self._boosted(criterion, window)
        if isinstance(criterion, Hybrid):
            return await self._fused(criterion, window)
        return places(criterion, (await self._rank(criterion, window, _NOTHING))[0])

    @measured
    async def hits(
        self, places: Sequence[Place], *, with_vector: bool = False, consistency: Consistency = "one"
    ) -> list[Hit]:
        await self._store.describe(self._name)
        records: _Records = {}
        ids = [place.point_id for place in places]
        records |= await self._retrieve(ids, [DENSE] if with_vector else False, consistency)
        return _hits(places, records, with_vector)

    async def _boosted(self, criterion: Boosted, window: SearchWindow) -> list[Place]:
        """Boost by reading metadata. The engine's formula would be of as many candidates of every shard."""
        window.check()
        ranking = await self.rank(criterion.ranking, candidates_of(criterion, window))
        rows = await self.columns.rows([place.point_id for place in ranking], read_fields(criterion.boosts))
        return boosted(criterion, ranking, {row.point_id: row.metadata for row in rows}, window)

    async def _fused(self, hybrid: Hybrid, window: SearchWindow) -> list[Place]:
        window.check()
        candidates = replace(window, limit=hybrid.candidates, offset=0, score_threshold=None)
        (embedding, _), (words, _) = await asyncio.gather(
            self._rank(hybrid.embedding, candidates, _NOTHING, whole=True),
            self._rank(hybrid.words, candidates, _NOTHING),
        )
        return fuse(hybrid, embedding, words, window)

    async def _rank(
        self,
        criterion: Nearest | WordMatch | LateInteraction,
        window: SearchWindow,
        parts: _Parts,
        *,
        whole: bool = False,
    ) -> tuple[Ranked, _Records]:
        """Return the ranking in the window, and the points that came with it in `parts`, by id. A `whole` window is the
        only one of its ranking, so one search of a graph gives all of it."""
        described = await self._store.describe(self._name)
        try:
            return await self._rank_within(described, criterion, window, parts, whole)
        except StrictMode:
            # The limits may have been lowered since they were read.
            present = await self._store.describe(self._name)
            if present.strict == described.strict:
                raise
            return await self._rank_within(present, criterion, window, parts, whole)

    async def _rank_within(
        self,
        description: Description,
        criterion: Nearest | WordMatch | LateInteraction,
        window: SearchWindow,
        parts: _Parts,
        whole: bool,
    ) -> tuple[Ranked, _Records]:
        """Rank within the limits of strict mode as they are described."""
        window.check()
        chosen = None if window.condition is None else await self._chosen(window.condition)
        oversampling = self._store.settings.collection.oversampling if description.quantized else None
        graph = GraphSearch.of(
            window, description.kept.hnsw_ef, most_ef=description.strict.ef, oversampling=oversampling
        )
        if whole:
            graph = graph.for_all(window.end)
        query = asked(criterion, description.layout, self._name, chosen, graph.params(graph.ef, graph.ef))
        if window.limit == 0 or query is None:
            return [], {}
        request, scale = query
        if window.score_threshold is not None and isinstance(criterion, Nearest):
            request["score_threshold"] = just_below(window.score_threshold)
        request["consistency"] = _CONSISTENCY[window.consistency]
        request["timeout"] = min(self._whole_s(window.timeout_s), description.strict.timeout_s)
        async with self._noticing_changes():
            if isinstance(criterion, Nearest):
                ranked, records = await self._walk(request, parts, window.end, graph)
            else:
                spare = words_spare(window.end) if isinstance(criterion, WordMatch) else 1
                ranked, records = await self._ranked(request, parts, window.end, spare=spare)
        return window.cut([(point, score * scale) for point, score in ranked]), records

    @measured
    async def best_parts(self, vector: Float32, document_ids: Sequence[str]) -> list[tuple[int, Float32] | None]:
        ids = [point_id(document_id) for document_id in document_ids]
        records = await self._retrieve(ids, [DENSE], payload=False)
        best = {point: unpacked(record.vector).best(vector) for point, record in records.items()}
        return [best.get(point) for point in ids]

    @measured
    async def layout(self) -> Layout:
        return (await self._store.describe(self._name)).layout

    @measured
    async def count(self, condition: Filter | None = None) -> int:
        if condition is None:
            # Of its segments, while they are rebuilt too. An exact count would collect the ids of all points.
            return (await self._store.describe(self._name, fresh=True)).documents
        await self._store.describe(self._name)
        chosen = await self._chosen(condition)
        with translating_errors("count"):
            return (await self._client.count(self._engine_name, chosen, exact=True)).count

    @measured
    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        records, following = await self._scroll(after, limit, condition, ["document_id"], False)
        return Page(tuple(record.payload["document_id"] for record in records), following)

    @measured
    async def scroll(
        self, after: str | None, limit: int, condition: Filter | None = None, *, with_vectors: bool = False
    ) -> Stretch:
        parts = [DENSE] if with_vectors else False
        records, following = await self._scroll(after, limit, condition, True, parts)
        return Stretch(tuple(_point(record, with_vectors) for record in records), following)

    @measured
    async def images(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        records, following = await self._scroll(after, limit, None, IMAGE_FIELDS, False)
        return digests(record.payload for record in records), following

    async def _scroll(
        self,
        after: str | None,
        limit: int,
        condition: Filter | None,
        payload: Selection,
        vectors: Selection,
    ) -> tuple[list[Record], str | None]:
        """Return a page of records and the `after` of the next page, which is its first id: Qdrant is asked from a
        point on, that one included."""
        await self._store.describe(self._name)
        chosen = None if condition is None else await self._chosen(condition)
        with translating_errors("scroll"):
            return await self._client.scroll_records(self._engine_name, chosen, limit, after, payload, vectors)

    def _whole_s(self, timeout_s: float | None) -> int:
        """Return the time-out in whole seconds, as the server and its client count it. The server ends a search on its
        side too."""
        most = self._store.settings.timeout_s
        return most if timeout_s is None else max(1, min(most, math.ceil(timeout_s)))

    async def _walk(
        self, request: dict[str, Any], parts: _Parts, count: int, graph: GraphSearch
    ) -> tuple[list[tuple[str, float]], _Records]:
        """Rank as `_ranked` does, through the graph: see `store.server.graph`."""
        walked: dict[str, float] = {}
        whole: _Records = {}
        for breadth in graph.breadths(count):
            size = count if graph.exact else min(breadth, count)
            ranked, records = await self._ranked(request, _NOTHING if walked else parts, size, graph, breadth)
            whole |= records
            # A hit of both keeps its place.
            walked |= dict(ranked)
            if len(ranked) < size:
                break
        return list(walked.items())[:count], whole

    async def _ranked(
        self,
        request: dict[str, Any],
        parts: _Parts,
        count: int,
        graph: GraphSearch | None = None,
        breadth: int = 0,
        *,
        spare: int = 1,
    ) -> tuple[list[tuple[str, float]], _Records]:
        """Ids and scores of the best `count` in the order of `store.ties`, and the points that came whole, by id.

        The first look takes `parts`, those behind it ids alone.
        """
        whole: _Records = {}
        ranked: Ranked = []
        for limit in query_limits(count, spare):
            if graph is not None:
                request = {**request, "search_params": graph.params(breadth, limit)}
            if ranked or parts is _NOTHING:
                ranked = await self._scores(request, limit)
            else:
                hits = {hit.id: hit for hit in await self._query(request, parts, limit)}
                whole |= hits
                ranked = [(point, hit.score) for point, hit in hits.items()]
            if is_complete([score for _, score in ranked], count, limit):
                break
        return in_order(ranked, count), whole

    async def _query(self, request: dict[str, Any], parts: _Parts, limit: int) -> list[Record]:
        with translating_errors("query_points"):
            return await self._client.query_records(self._engine_name, request, limit, *parts)

    async def _scores(self, request: dict[str, Any], limit: int) -> Ranked:
        with translating_errors("query_points"):
            return await self._client.query_scores(self._engine_name, request, limit)

    async def _retrieve(
        self, ids: list[str], parts: Selection, consistency: Consistency = "one", *, payload: bool = True
    ) -> _Records:
        records: list[Record] = []
        size = READ_POINTS if parts else FETCH_POINTS
        for start in range(0, len(ids), size):
            with translating_errors("retrieve"):
                records += await self._client.read_records(
                    self._engine_name, ids[start : start + size], payload, parts, _CONSISTENCY[consistency]
                )
        return {record.id: record for record in records}

    async def _chosen(self, condition: Filter) -> q.Filter:
        """Return the filter in the server's terms. Raises `InvalidInput` or `IndexUnfinished` for one that would read
        the metadata of too many documents."""
        description = await self._store.describe(self._name)
        # Some segments may have an index that the collection does not show.
        check_kinds(condition, {**description.coming, **description.indexed})
        if unanswered(condition, description.indexed) and description.documents > description.readable_documents:
            await self._check_readable(condition)
        return to_server(condition)

    async def _check_readable(self, condition: Filter) -> None:
        description = await self._store.describe(self._name, fresh=True)
        limit, documents = description.readable_documents, description.documents
        if not unanswered(condition, description.indexed) or documents <= limit:
            return
        narrowed = to_server(answered(condition, description.indexed))
        if limit:
            with translating_errors("count"):
                documents = (await self._client.count(self._engine_name, narrowed, exact=False)).count
        if documents > limit:
            refuse_reading(condition, description.indexed, description.coming, documents, limit)

    @property
    def columns(self) -> ServerColumns:
        return ServerColumns(self._store, self._name, self._chosen)


def _check_done(status: q.UpdateStatus) -> None:
    """Raise `DependencyUnavailable` for a write that the server has given up waiting for: it is repeated. One that is
    acknowledged is in a log, and done on a copy that answers no searches."""
    if status is q.UpdateStatus.WAIT_TIMEOUT:
        raise DependencyUnavailable("Qdrant took a write and did not carry it out in time")


def _point(record: Record, with_vectors: bool) -> Point:
    return point_of(record.payload, unpacked(record.vector)) if with_vectors else point_of(record.payload)


def _hits(ranking: Sequence[Place], records: _Records, with_vector: bool) -> list[Hit]:
    """Return the hits of a ranking, without the documents deleted since."""
    present = [(records[place.point_id], place) for place in ranking if place.point_id in records]
    return [
        hit_of(record.payload, place, unpacked(record.vector).vector if with_vector else None)
        for record, place in present
    ]
