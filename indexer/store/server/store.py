"""A Qdrant server or cluster as a store, through qdrant-client: the same payloads, ids and answers as Qdrant Edge.

It uses `upsert` with own ids and `wait=True`; the client's `upload_points` would make up ids and hide refusals.

A server is shared with other applications and other deployments. A collection of ours is called `ret2~PREFIX~NAME` and
says so in its metadata; whatever lacks that mark is neither read nor written nor dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from qdrant_client import models as q

from indexer.errors import CollectionDamaged, PointsMissing
from indexer.filters import FieldType
from indexer.observability.watch import NOBODY, Watch
from indexer.store.base import KeptOnServer, Layout, ServerOptions, Summary
from indexer.store.indexes import declared_indexes
from indexer.store.measure import measured
from indexer.store.payload import engine_name, quoted
from indexer.store.search_terms import FORMAT
from indexer.store.server.client import Client
from indexer.store.server.connection import reach
from indexer.store.server.copies import Copies
from indexer.store.server.creation import changes, creation, creation_like, with_options
from indexer.store.server.description import Description, describe_foreign, kept, kind_of
from indexer.store.server.differences import Difference, differences
from indexer.store.server.errors import translating_errors
from indexer.store.server.filters import INDEX_KINDS
from indexer.store.server.places import BoundedClient
from indexer.store.server.points import ServerPoints
from indexer.store.server.ranking import layout_of, quantization_of
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.strict import StrictLimits
from indexer.store.vectors import fits, new_layout
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound, RetrievalError

# Names and metadata of our collections on a server begin with it.
MARK = "ret2"
MAX_DIMENSIONS = 65_535
CREATION_WAIT_S = 10  # for all nodes to have a new collection
SUMMARIES_AT_A_TIME = 4
# How long what a collection is counts as known; another process may drop it and make another.
DESCRIPTION_MAX_AGE_S = 60.0


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
        self._descriptions: dict[str, Description] = {}
        self._readings: dict[str, asyncio.Future[Description]] = {}

    @measured
    async def create(
        self,
        name: str,
        dimensions: int,
        indexes: Mapping[str, FieldType] | None = None,
        *,
        language: str | None = None,
        latents: bool | None = None,
        like: str | None = None,
        options: ServerOptions | None = None,
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
            layout = new_layout(dimensions, language, latents)
            options = options or ServerOptions()
            made, hnsw_ef = creation(layout, with_options(self.settings.collection, options)), options.hnsw_ef
            if like is not None:
                config = (await self._own(like)).config
                made, hnsw_ef = made | creation_like(layout, config), (config.metadata or {})[MARK].get("hnsw_ef")
            await self._make(name, layout, made, hnsw_ef)
            description = await self.describe(name, fresh=True)
            options = None
        fits(description.layout, dimensions, language, latents, name)
        if options is not None:
            await self._set_options(name, description.kept, options.changed_from(description.kept))
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
        self._forget(name)

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
                except RetrievalError as error:
                    return error
                indexed, kept_as = description.indexed, description.kept
                return Summary(description.layout, description.documents, None, indexed, kept=kept_as)

        return dict(zip(names, await asyncio.gather(*map(summary, names)), strict=True))

    async def differences(self, name: str) -> AsyncIterator[Difference]:
        """Yield the documents of which the addresses of the cluster have different copies."""
        await self._own(name)
        if self._addresses is not None:
            async for difference in differences(self._addresses, self.engine_name(name)):
                yield difference

    @property
    def versions(self) -> dict[str, str | None]:
        """The versions of the servers by address; None where none was asked since the last connection was lost."""
        return self._addresses.versions if self._addresses else {}

    @measured
    async def ping(self) -> None:
        with translating_errors("ping"):
            await self.client.get_collections()

    @property
    def writes_late(self) -> bool:
        return True

    @property
    def alive(self) -> bool:
        return self._bounded.alive

    async def close(self) -> None:
        for reading in self._readings.values():
            reading.cancel()
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

    async def describe(self, name: str, *, fresh: bool = False) -> Description:
        """Return what is known of a collection, at most a minute old unless `fresh`. Raises `NotFound`."""
        if fresh:
            description = await self._read_description(name)
            self._keep(name, description)
            return description
        cached = self._descriptions.get(name)
        return cached if cached is not None and cached.until > time.monotonic() else await self._share_description(name)

    async def _share_description(self, name: str) -> Description:
        """Read a description once for all who need it now: else every search of a busy moment would ask."""
        reading = self._readings.get(name)
        if reading is None:
            reading = self._readings[name] = asyncio.ensure_future(self._read_description(name))
            reading.add_done_callback(lambda done: self._end_reading(name, done))
        return await asyncio.shield(reading)

    def _end_reading(self, name: str, reading: asyncio.Future[Description]) -> None:
        # A collection that was dropped or changed meanwhile is not as it was read.
        current = self._readings.get(name) is reading
        if current:
            del self._readings[name]
        if not reading.cancelled() and reading.exception() is None and current:
            self._keep(name, reading.result())

    def _keep(self, name: str, description: Description) -> None:
        self._descriptions[name] = description
        now = time.monotonic()
        states = (recent.kept.status for recent in self._descriptions.values() if recent.until > now)
        self.watch.saw_collections(Counter(states))

    def _forget(self, name: str) -> None:
        self._descriptions.pop(name, None)
        self._readings.pop(name, None)

    async def _read_description(self, name: str) -> Description:
        self._descriptions.pop(name, None)
        info = await self._own(name)
        layout = layout_of(info.config.params)
        mark = (info.config.metadata or {})[MARK]
        if layout is None or mark.get("dimensions", layout.dimensions) != layout.dimensions:
            raise CollectionDamaged(
                f"collection {name} was changed on the Qdrant server: it has {describe_foreign(info)} instead of "
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
        indexed = {quoted(path): kind_of(index, name, path) for path, index in info.payload_schema.items()}
        declared = declared_indexes({field: FieldType(kind) for field, kind in mark.get("indexes", {}).items()})
        strict = info.config.strict_mode_config
        reads_none = strict is not None and strict.enabled and strict.unindexed_filtering_retrieve is False
        return Description(
            layout,
            indexed,
            {path: kind for path, kind in declared.items() if path not in indexed},
            0 if reads_none else self.settings.readable_documents,
            info.points_count or 0,
            StrictLimits.of(strict),
            info.config.params.replication_factor or 1,
            quantization_of(info.config) is not None,
            kept(info, mark.get("hnsw_ef") or self.settings.collection.hnsw_ef),
            time.monotonic() + DESCRIPTION_MAX_AGE_S,
        )

    async def _own(self, name: str) -> q.CollectionInfo:
        """Return what the server says of a collection. Raises `NotFound`, or `Conflict` for one that this deployment
        did not make.
        """
        with translating_errors("get_collection"):
            if not await self.client.collection_exists(self.engine_name(name)):
                raise PointsMissing(f"the store has no points of collection {name}")
        async with self.naming_shards(name):
            with translating_errors("get_collection"):
                info = await self.client.get_collection(self.engine_name(name))
        mark = (info.config.metadata or {}).get(MARK)
        if not isinstance(mark, dict) or mark | self.mark(name) != mark:
            raise Conflict(
                f"the Qdrant server has a collection {self.engine_name(name)!r} that this deployment did not make "
                f"({describe_foreign(info)}). It is left as it is: choose another name, or set RET2_QDRANT_PREFIX. "
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

    async def _make(self, name: str, layout: Layout, made: Mapping[str, Any], hnsw_ef: int | None) -> None:
        """Make a collection, or find it made: by another process that was quicker, which gRPC has called an invalid
        argument, or by a server that has a node down, waits for it and says that time ran out."""
        deadline = time.monotonic() + self.settings.definition_timeout_s
        while True:
            began = time.monotonic()
            try:
                return await self._create_collection(name, layout, made, hnsw_ef)
            except (Conflict, InvalidInput, DependencyUnavailable) as error:
                with translating_errors("collection_exists"):
                    if await self.client.collection_exists(self.engine_name(name)):
                        return None
                # A cluster that lost its leader takes some seconds to have another, and forgets what it was to make.
                waited = isinstance(error, DependencyUnavailable) and time.monotonic() - began > CREATION_WAIT_S / 2
                if not waited or time.monotonic() > deadline:
                    raise

    async def _create_collection(self, name: str, layout: Layout, made: Mapping[str, Any], hnsw_ef: int | None) -> None:
        mark = self.mark(name) | {"format": FORMAT, "indexes": {}, "dimensions": layout.dimensions, "hnsw_ef": hnsw_ef}
        with translating_errors("create_collection"):
            await self.client.create_collection(
                self.engine_name(name),
                **made,
                metadata={MARK: mark},
                timeout=min(CREATION_WAIT_S, self.settings.definition_timeout_s),
            )

    async def _set_options(self, name: str, kept_as: KeptOnServer, options: ServerOptions) -> None:
        """Change how the server keeps a present collection. Raises `InvalidInput` for what cannot be changed."""
        config = (await self._own(name)).config
        changed = changes(config, kept_as, options, self.settings.collection.quantized_in_memory)
        if options.hnsw_ef is not None:
            changed["metadata"] = {MARK: dict(config.metadata or {})[MARK] | {"hnsw_ef": options.hnsw_ef}}
        if changed:
            with translating_errors("update_collection"):
                await self.client.update_collection(
                    self.engine_name(name), **changed, timeout=self.settings.definition_timeout_s
                )
            self._forget(name)

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
            self._forget(name)
