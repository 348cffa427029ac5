"""A Qdrant server or cluster as a store, through qdrant-client: the same payloads, ids and answers as Qdrant Edge.

It uses `upsert` with own ids and `wait=True`; the client's `upload_points` would make up ids and hide refusals.

A server is shared with other applications and other deployments. A collection of ours is called `ret2~PREFIX~NAME` and
says so in its metadata; whatever lacks that mark is neither read nor written nor dropped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import orjson
from qdrant_client import models as q

from indexer.domain.documents import point_id
from indexer.domain.points import Hit, MetadataChange, Page, Point, Stretch
from indexer.errors import CollectionDamaged, CollectionUnavailable
from indexer.filters import FieldType, Filter
from indexer.observability.watch import NOBODY, Watch
from indexer.store.base import Consistency, Layout, SearchWindow, Summary
from indexer.store.boosts import boosted, candidates_of, read_fields
from indexer.store.criteria import Boosted, Criterion, Hybrid, LateInteraction, Nearest, Place, Ranked, WordMatch
from indexer.store.fusion import fuse, places
from indexer.store.indexes import answered, check_kinds, declared_indexes, refuse_reading, unanswered
from indexer.store.measure import measured
from indexer.store.payload import (
    IMAGE_FIELDS,
    digests,
    engine_name,
    hit_of,
    payload_change,
    payload_of,
    point_of,
    quoted,
)
from indexer.store.search_terms import FORMAT
from indexer.store.server.client import Client
from indexer.store.server.columns import ServerColumns
from indexer.store.server.connection import reach
from indexer.store.server.copies import Copies
from indexer.store.server.errors import StrictMode, translating_errors
from indexer.store.server.filters import INDEX_KINDS, KINDS, to_server
from indexer.store.server.graph import GraphSearch
from indexer.store.server.places import BoundedClient
from indexer.store.server.ranking import asked, layout_of, sparse, vector_params
from indexer.store.server.settings import CollectionSettings, ServerStoreSettings
from indexer.store.server.strict import StrictLimits
from indexer.store.ties import in_order, is_complete, query_limits
from indexer.store.vectors import DENSE, LATENTS, fits, just_below, new_layout, unpacked, vectors_of
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound, RetrievalError
from model.types import Float32

log = logging.getLogger(__name__)

# Names and metadata of our collections on a server begin with it.
MARK = "ret2"
MAX_DIMENSIONS = 65_535
# Of one write: servers take 32 MB over REST unless they are told otherwise.
CALL_BYTES = 16_000_000
_VALUE_BYTES = 12  # of a vector, as JSON
CREATION_WAIT_S = 10  # for all nodes to have a new collection
SUMMARIES_AT_A_TIME = 4
FETCH_POINTS = 256  # of one read of payloads
READ_POINTS = 64  # of one read of vectors: those of 64 parts are some 200 kB as JSON
DESCRIPTION_MAX_AGE_S = (
    60.0  # how long what a collection is counts as known; another process may drop it and make another
)

_CONSISTENCY: dict[Consistency, q.ReadConsistencyType | None] = {
    "one": None,
    "majority": q.ReadConsistencyType.MAJORITY,
    "quorum": q.ReadConsistencyType.QUORUM,
    "all": q.ReadConsistencyType.ALL,
}
_Records = dict[str, q.ScoredPoint | q.Record]
_NOTHING: dict[str, Any] = {"with_payload": False, "with_vectors": False}


@dataclass(slots=True)
class _Description:
    """The cached description of a collection, which saves a call for each operation."""

    layout: Layout
    # By path.
    indexed: Mapping[str, FieldType]
    # Those that are declared and not shown yet, because they are being built.
    coming: Mapping[str, FieldType]
    # Whose metadata a filter may read where no index answers it.
    readable_documents: int
    documents: int
    strict: StrictLimits
    # As the collection has it on the server, whose own API may have changed it.
    copies: int
    quantized: bool
    # Monotonic seconds.
    until: float

    @property
    def ordering(self) -> q.WriteOrdering | None:
        """Without an order two processes that write one document through two nodes may leave its copies different for
        good."""
        return q.WriteOrdering.MEDIUM if self.copies > 1 else None


class ServerStore:
    """The collections of one Qdrant server. Connects at the first call; safe to share in one event loop. The maker
    closes it.
    """

    def __init__(self, settings: ServerStoreSettings, client: Client | None = None, *, watch: Watch = NOBODY) -> None:
        self.settings = settings
        self.watch = watch
        self._addresses = None if client else reach(settings)
        longest_s = max(settings.timeout_s, settings.write_timeout_s, settings.definition_timeout_s)
        self._bounded = BoundedClient(client or self._addresses, settings.connections, settings.timeout_s, longest_s)
        self.client = cast(Client, self._bounded)
        self._copies = Copies(self._addresses) if self._addresses else None
        self._descriptions: dict[str, _Description] = {}

    @measured
    async def create(
        self,
        name: str,
        dimensions: int,
        indexes: Mapping[str, FieldType] | None = None,
        *,
        language: str | None = None,
        latents: bool | None = None,
    ) -> None:
        """Makes what is missing, indexes too, if the collection is there with this layout; `Conflict` if it has
        another.
        """
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise InvalidInput(
                f"dimensions is {dimensions}, limit is 1 to {MAX_DIMENSIONS}", field="dimensions", value=dimensions
            )
        try:
            description = await self.describe(name, fresh=True)
        except NotFound:
            await self._make(name, new_layout(dimensions, language, latents))
            description = await self.describe(name, fresh=True)
        fits(description.layout, dimensions, language, latents, name)
        await self._declare(name, indexes or {})

    @measured
    async def drop(self, name: str) -> None:
        """Remove the collection if it exists. Raises `Conflict` for one that this deployment did not make."""
        try:
            await self._own(name)
        except NotFound:
            return
        with translating_errors("drop"):
            await self.client.delete_collection(self.engine_name(name), timeout=self.settings.definition_timeout_s)
        self._descriptions.pop(name, None)

    def points(self, name: str) -> ServerPoints:
        return ServerPoints(self, name)

    @measured
    async def summaries(self, names: Sequence[str]) -> dict[str, Summary | RetrievalError]:
        """Return what is said of each collection, a few at a time. A server reports only the size of its whole disk."""
        few = asyncio.Semaphore(SUMMARIES_AT_A_TIME)

        async def summary(name: str) -> Summary | RetrievalError:
            async with few:
                try:
                    description = await self.describe(name, fresh=True)
                    documents = await self.points(name).count()
                except RetrievalError as error:
                    return error
                return Summary(description.layout, documents, None, description.indexed)

        return dict(zip(names, await asyncio.gather(*map(summary, names)), strict=True))

    @property
    def versions(self) -> dict[str, str | None]:
        """The versions of the servers by address; None where none was asked since the last connection was lost."""
        return self._addresses.versions if self._addresses else {}

    @measured
    async def ping(self) -> None:
        with translating_errors("ping"):
            await self.client.get_collections()

    @property
    def alive(self) -> bool:
        return self._bounded.alive

    async def close(self) -> None:
        with translating_errors("close"):
            await self.client.close()

    @measured
    async def defer_indexing(self, name: str, deferred: bool) -> bool:
        """Deferred, new vectors get no HNSW graph. Whether that is a change; `NotFound` without the collection.

        A threshold of 0 is what says so: any other is left as it is, and one that comes back is that of the settings.
        """
        config = (await self._own(name)).config.optimizer_config
        if (config.indexing_threshold == 0) == deferred:
            return False
        threshold_kb = 0 if deferred else self.settings.collection.indexing_threshold_kb
        with translating_errors("update_collection"):
            await self.client.update_collection(
                self.engine_name(name),
                optimizers_config=q.OptimizersConfigDiff(indexing_threshold=threshold_kb),
                timeout=self.settings.definition_timeout_s,
            )
        return True

    def engine_name(self, name: str) -> str:
        """Return the name on the server. `~` is in no prefix, so names of different prefixes never meet: `a-`, `b-x`
        and `a-b-`, `x`.
        """
        return engine_name(f"{MARK}~{self.settings.collection_prefix}~{name}")

    def mark(self, name: str) -> dict[str, Any]:
        """Return what the metadata of a collection says under `MARK`, if this deployment made it."""
        return {"prefix": self.settings.collection_prefix, "collection": name}

    async def describe(self, name: str, *, fresh: bool = False) -> _Description:
        """Return what is known of a collection, at most a minute old unless `fresh`. Raises `NotFound`."""
        description = self._descriptions.get(name)
        if description is None or fresh or description.until < time.monotonic():
            description = self._descriptions[name] = await self._read_description(name)
        return description

    async def _read_description(self, name: str) -> _Description:
        self._descriptions.pop(name, None)
        info = await self._own(name)
        layout = layout_of(info.config.params)
        mark = (info.config.metadata or {})[MARK]
        if layout is None or mark.get("dimensions", layout.dimensions) != layout.dimensions:
            raise CollectionDamaged(
                f"collection {name} was changed on the Qdrant server: it has {_describe_foreign(info)} instead of "
                f"{mark.get('dimensions', 'other')} dimensions, Cosine, and words. Restore it there, or delete it and "
                "index its documents again",
                field="collection",
                value=name,
            )
        if mark.get("format") != FORMAT:
            raise CollectionDamaged(
                f"collection {name} was filled by an earlier version of ret2, which stored metadata another "
                "way: delete it and index its documents again",
                field="collection",
                value=name,
            )
        indexed = {quoted(path): _kind_of(index, name, path) for path, index in info.payload_schema.items()}
        declared = declared_indexes({field: FieldType(kind) for field, kind in mark.get("indexes", {}).items()})
        strict = info.config.strict_mode_config
        reads_none = strict is not None and strict.enabled and strict.unindexed_filtering_retrieve is False
        return _Description(
            layout,
            indexed,
            {path: kind for path, kind in declared.items() if path not in indexed},
            0 if reads_none else self.settings.readable_documents,
            info.points_count or 0,
            StrictLimits.of(strict),
            info.config.params.replication_factor or 1,
            info.config.quantization_config is not None,
            time.monotonic() + DESCRIPTION_MAX_AGE_S,
        )

    async def _own(self, name: str) -> q.CollectionInfo:
        """Return what the server says of a collection. Raises `NotFound`, or `Conflict` for one that this deployment
        did not make.
        """
        with translating_errors("get_collection"):
            if not await self.client.collection_exists(self.engine_name(name)):
                raise NotFound(f"there is no collection {name} in the store", field="collection", value=name)
        async with self.naming_shards(name):
            with translating_errors("get_collection"):
                info = await self.client.get_collection(self.engine_name(name))
        mark = (info.config.metadata or {}).get(MARK)
        if not isinstance(mark, dict) or mark | self.mark(name) != mark:
            raise Conflict(
                f"the Qdrant server has a collection {self.engine_name(name)!r} that this deployment did not make "
                f"({_describe_foreign(info)}). It is left as it is: choose another name, or set RET2_QDRANT_PREFIX. "
                "Servers before 1.16 keep no mark of ownership",
                field="collection",
                value=name,
            )
        return info

    @asynccontextmanager
    async def naming_shards(self, name: str) -> AsyncIterator[None]:
        """Raise the error of a call that needs every shard of a collection with those that are waited for."""
        try:
            yield
        except DependencyUnavailable as error:
            if self._copies is None:
                raise
            raise await self._copies.explain(error, name, self.engine_name(name)) from error

    async def _make(self, name: str, layout: Layout) -> None:
        """Make a collection, or find it made: by another process that was quicker, which gRPC has called an invalid
        argument, or by a server that has a node down, waits for it and says that time ran out."""
        deadline = time.monotonic() + self.settings.definition_timeout_s
        while True:
            began = time.monotonic()
            try:
                return await self._create_collection(name, layout)
            except (Conflict, InvalidInput, DependencyUnavailable) as error:
                with translating_errors("collection_exists"):
                    if await self.client.collection_exists(self.engine_name(name)):
                        return None
                # A cluster that lost its leader takes some seconds to have another, and forgets what it was to make.
                waited = isinstance(error, DependencyUnavailable) and time.monotonic() - began > CREATION_WAIT_S / 2
                if not waited or time.monotonic() > deadline:
                    raise

    async def _create_collection(self, name: str, layout: Layout) -> None:
        with translating_errors("create_collection"):
            await self.client.create_collection(
                self.engine_name(name),
                **creation(layout, self.settings.collection),
                metadata={MARK: self.mark(name) | {"format": FORMAT, "indexes": {}, "dimensions": layout.dimensions}},
                timeout=min(CREATION_WAIT_S, self.settings.definition_timeout_s),
            )

    async def _declare(self, name: str, fields: Mapping[str, FieldType]) -> None:
        """Note the declared fields in the collection's metadata, and have the server build the indexes that are
        missing, beside its searches, which read the metadata until then."""
        mark = dict((await self._own(name)).config.metadata or {})[MARK]
        if fields.items() - mark["indexes"].items():
            declared = mark["indexes"] | {field: str(kind) for field, kind in fields.items()}
            with translating_errors("update_collection"):
                await self.client.update_collection(
                    self.engine_name(name),
                    metadata={MARK: mark | {"indexes": declared}},
                    timeout=self.settings.definition_timeout_s,
                )
        indexed = (await self.describe(name)).indexed
        for path, kind in declared_indexes(fields).items():
            if indexed.get(path) == kind:
                continue
            with translating_errors("create_payload_index"):
                if path in indexed:
                    await self.client.delete_payload_index(self.engine_name(name), path, wait=True)
                await self.client.create_payload_index(
                    self.engine_name(name), path, field_schema=INDEX_KINDS[kind], wait=False
                )
        if fields:
            self._descriptions.pop(name, None)


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
        written = list({point.document_id: _struct(point, description.layout) for point in points}.values())
        for part in _calls(written, min(self._store.settings.upsert_points, description.strict.upsert_points)):
            try:
                async with self._store.naming_shards(self._name), self._noticing_changes():
                    with translating_errors("upsert"):
                        await self._client.upsert(self._engine_name, part, wait=True, ordering=description.ordering)
            except StrictMode as error:
                # No document is at fault.
                raise CollectionUnavailable(error.detail) from error

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
        payloads = {point_id(change.document_id): _storable(payload_change(change)) for change in changes}
        ids = list(payloads)
        size = min(self._store.settings.upsert_points, description.strict.upsert_points)
        for start in range(0, len(ids), size):
            part: list[Any] = ids[start : start + size]
            with translating_errors("retrieve"):
                present = await self._client.retrieve(self._engine_name, part, **_NOTHING)
            operations: list[Any] = [
                q.SetPayloadOperation(set_payload=q.SetPayload(payload=payloads[str(record.id)], points=[record.id]))
                for record in present
            ]
            if operations:
                async with self._store.naming_shards(self._name):
                    with translating_errors("batch_update_points"):
                        await self._client.batch_update_points(
                            self._engine_name, operations, wait=True, ordering=description.ordering
                        )

    @measured
    async def delete(self, document_ids: Sequence[str]) -> None:
        description = await self._store.describe(self._name)
        ids: list[Any] = [point_id(document_id) for document_id in document_ids]
        if ids:
            selected = q.PointIdsList(points=ids)
            async with self._store.naming_shards(self._name):
                with translating_errors("delete"):
                    await self._client.delete(self._engine_name, selected, wait=True, ordering=description.ordering)

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
        parts = [DENSE] if window.with_vector else False
        # The first page comes whole with its ranking; of a later one the hits before it would come for nothing.
        whole = {"with_payload": True, "with_vectors": parts} if window.offset == 0 else _NOTHING
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
            self._rank(hybrid.embedding, candidates, _NOTHING), self._rank(hybrid.words, candidates, _NOTHING)
        )
        return fuse(hybrid, embedding, words, window)

    async def _rank(
        self, criterion: Nearest | WordMatch | LateInteraction, window: SearchWindow, parts: dict[str, Any]
    ) -> tuple[Ranked, _Records]:
        """Return the ranking in the window, and the points that came with it in `parts`, by id."""
        description = await self._store.describe(self._name)
        window.check()
        chosen = None if window.condition is None else await self._chosen(window.condition)
        graph = GraphSearch.of(
            self._store.settings.collection, window, most_ef=description.strict.ef, quantized=description.quantized
        )
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
                ranked, records = await self._ranked(request, parts, window.end)
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
        await self._store.describe(self._name)
        chosen = None if condition is None else await self._chosen(condition)
        with translating_errors("count"):
            return (await self._client.count(self._engine_name, chosen, exact=True)).count

    @measured
    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        records, following = await self._scroll(after, limit, condition, ["document_id"], False)
        return Page(tuple((record.payload or {})["document_id"] for record in records), following)

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
        with_payload: bool | list[str],
        with_vectors: bool | list[str],
    ) -> tuple[list[q.Record], str | None]:
        """Return a page of records and the `after` of the next page, which is its first id: Qdrant is asked from a
        point on, that one included."""
        await self._store.describe(self._name)
        chosen = None if condition is None else await self._chosen(condition)
        parts: dict[str, Any] = {"with_payload": with_payload, "with_vectors": with_vectors}
        with translating_errors("scroll"):
            records, following = await self._client.scroll(
                self._engine_name, chosen, offset=after, limit=limit, **parts
            )
        return records, None if following is None else str(following)

    def _whole_s(self, timeout_s: float | None) -> int:
        """Return the time-out in whole seconds, as the server and its client count it. The server ends a search on its
        side too."""
        most = self._store.settings.timeout_s
        return most if timeout_s is None else max(1, min(most, math.ceil(timeout_s)))

    async def _walk(
        self, request: dict[str, Any], parts: dict[str, Any], count: int, graph: GraphSearch
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
        parts: dict[str, Any],
        count: int,
        graph: GraphSearch | None = None,
        breadth: int = 0,
    ) -> tuple[list[tuple[str, float]], _Records]:
        """Ids and scores of the best `count` in the order of `store.ties`, and the points that came whole, by id.

        The first look takes `parts`, those behind it ids alone.
        """
        whole: _Records = {}
        ranked: Ranked = []
        for limit in query_limits(count):
            if graph is not None:
                request = {**request, "search_params": graph.params(breadth, limit)}
            if ranked or parts is _NOTHING:
                ranked = await self._scores(request, limit)
            else:
                hits = {str(hit.id): hit for hit in await self._query(request, parts, limit)}
                whole |= hits
                ranked = [(point, hit.score) for point, hit in hits.items()]
            if is_complete([score for _, score in ranked], count, limit):
                break
        return in_order(ranked, count), whole

    async def _query(self, request: dict[str, Any], parts: dict[str, Any], limit: int) -> list[q.ScoredPoint]:
        with translating_errors("query_points"):
            return (await self._client.query_points(self._engine_name, **request, **parts, limit=limit)).points

    async def _scores(self, request: dict[str, Any], limit: int) -> Ranked:
        with translating_errors("query_points"):
            return await self._client.query_scores(self._engine_name, request, limit)

    async def _retrieve(
        self, ids: list[str], parts: bool | list[str], consistency: Consistency = "one", *, payload: bool = True
    ) -> dict[str, q.Record]:
        records: list[q.Record] = []
        size = READ_POINTS if parts else FETCH_POINTS
        for start in range(0, len(ids), size):
            with translating_errors("retrieve"):
                records += await self._client.retrieve(
                    self._engine_name,
                    ids[start : start + size],
                    with_payload=payload,
                    with_vectors=parts,
                    consistency=_CONSISTENCY[consistency],
                )
        return {str(record.id): record for record in records}

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


def creation(layout: Layout, settings: CollectionSettings) -> dict[str, Any]:
    """Return the arguments of `create_collection`."""
    return {
        **vector_params(layout, settings.vectors_on_disk),
        "shard_number": settings.shards,
        "replication_factor": settings.replication_factor,
        "write_consistency_factor": settings.write_consistency_factor,
        "on_disk_payload": settings.payload_on_disk,
        "hnsw_config": q.HnswConfigDiff(m=settings.hnsw_m, ef_construct=settings.hnsw_ef_construct),
        "optimizers_config": q.OptimizersConfigDiff(indexing_threshold=settings.indexing_threshold_kb),
        "quantization_config": _quantization(settings),
    }


def _quantization(settings: CollectionSettings) -> q.QuantizationConfig | None:
    in_memory = settings.quantized_in_memory
    match settings.quantization:
        case "scalar":
            scalar = q.ScalarQuantizationConfig(type=q.ScalarType.INT8, quantile=0.99, always_ram=in_memory)
            return q.ScalarQuantization(scalar=scalar)
        case "binary":
            return q.BinaryQuantization(binary=q.BinaryQuantizationConfig(always_ram=in_memory))
        case "product":
            product = q.ProductQuantizationConfig(compression=q.CompressionRatio.X16, always_ram=in_memory)
            return q.ProductQuantization(product=product)
        case "none":
            return None


def _point(record: q.ScoredPoint | q.Record, with_vectors: bool) -> Point:
    payload = record.payload or {}
    return point_of(payload, unpacked(record.vector)) if with_vectors else point_of(payload)


def _kind_of(index: q.PayloadIndexInfo, name: str, path: str) -> FieldType:
    """Raise `Conflict` for a type of index that this service does not make: it may answer filters otherwise."""
    kind = KINDS.get(index.data_type)
    if kind is None:
        raise Conflict(
            f"another application gave collection {name} an index of type {index.data_type.value} on {path}, which may "
            "answer filters wrongly: remove that index from the Qdrant server",
            field="collection",
            value=name,
        )
    return kind


def _describe_foreign(info: q.CollectionInfo) -> str:
    vectors = info.config.params.vectors
    named = vectors if isinstance(vectors, dict) else {"": vectors}
    sizes = [f"{params.size} dimensions, {params.distance.value}" for params in named.values() if params is not None]
    return f"{info.points_count or 0} points of {' and '.join(sizes) or 'no vectors'}"


def _calls(points: Sequence[q.PointStruct], most: int) -> Iterator[list[q.PointStruct]]:
    """Cut points into calls by their number and their bytes. A point over the bytes has a call of its own."""
    part: list[q.PointStruct] = []
    held_bytes = 0
    for point in points:
        size_bytes = len(orjson.dumps(point.payload)) + _VALUE_BYTES * _count_values(point.vector)
        if part and (len(part) == most or held_bytes + size_bytes > CALL_BYTES):
            yield part
            part, held_bytes = [], 0
        part.append(point)
        held_bytes += size_bytes
    if part:
        yield part


def _count_values(vector: Any) -> int:
    if isinstance(vector, Mapping):
        return sum(map(_count_values, vector.values()))
    if isinstance(vector, q.SparseVector):
        return 2 * len(vector.indices)
    return sum(map(_count_values, vector)) if isinstance(vector, list) else 1


def _struct(point: Point, layout: Layout) -> q.PointStruct:
    payload = _storable(payload_of(point))
    return q.PointStruct(id=point_id(point.document_id), vector=vectors_of(point, layout, sparse), payload=payload)


def _storable(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload. Refuses what Edge refuses; gRPC would write NaN, and `:memory:` anything."""
    try:
        written = orjson.dumps(payload, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:  # JSONEncodeError is one
        raise InvalidInput(f"the store cannot hold or compare this value: {error}"[:300]) from error
    if b"null" in written and _has_nan(payload):
        raise InvalidInput("the store cannot hold or compare this value: not a finite number")
    return payload


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not np.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_nan(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_nan(item) for item in value)


def _hits(ranking: Sequence[Place], records: _Records, with_vector: bool) -> list[Hit]:
    """Return the hits of a ranking, without the documents deleted since."""
    present = [(records[place.point_id], place) for place in ranking if place.point_id in records]
    return [
        hit_of(record.payload or {}, place, unpacked(record.vector).vector if with_vector else None)
        for record, place in present
    ]
