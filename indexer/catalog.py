"""Collections: a row of the ledger and points in the store, made and dropped together, bound to the model that fills them."""

from __future__ import annotations

import re
import time

from indexer.encoder import Encoder
from indexer.encoders import Encoders
from indexer.ledger import Ledger
from indexer.records import Collection
from indexer.store import Points, Store
from model.errors import Conflict, InvalidInput, NotFound

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Catalog:
    """Safe to use from many tasks."""

    def __init__(self, ledger: Ledger, store: Store, encoder: Encoder | Encoders) -> None:
        self._ledger, self._store, self._encoders = ledger, store, Encoders.of(encoder)

    async def create(self, name: str, *, instruction: str | None = None) -> tuple[Collection, bool]:
        """The collection and whether it is new. Raises `Conflict` when it is there with other settings or of another model.

        The store first, and whether or not the ledger knows the name: what a process that died half-way left over, on the
        way in or out, is whole after the next `create`.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"collection name {name!r:.100} does not fit: lower-case letters, digits, '-' and '_', at most 63",
                field="name",
                value=name[:100],
                limit=63,
            )
        try:
            there = await self._same(name, instruction)
        except NotFound:
            pass
        else:
            await self._make_points(there.points_name, there.dimensions, known=True)
            return there, False
        info = await self._encoders.first.info()
        wanted = Collection(name, info.fingerprint, info.name, info.dimensions, time.time(), instruction)
        await self._make_points(wanted.points_name, info.dimensions, known=False)
        try:
            await self._ledger.call(self._ledger.create_collection, wanted)
        except Conflict:  # another request made it meanwhile
            return await self._same(name, instruction), False
        return wanted, True

    async def _same(self, name: str, instruction: str | None) -> Collection:
        """The collection that is there. Raises `NotFound`, or `Conflict` when it is another than the one that is asked for."""
        there = await self.compatible(name)
        if there.instruction != instruction:
            raise Conflict(
                f"collection {there.name!r} exists with instruction {there.instruction!r}, not {instruction!r}",
                field="instruction",
                value=instruction,
            )
        return there

    async def _make_points(self, name: str, dimensions: int, *, known: bool) -> None:
        try:
            await self._store.create(name, dimensions)
        except Conflict:
            if known:
                raise
            # Left over from a `create` of another model that died: empty, for nobody could name it.
            await self._store.drop(name)
            await self._store.create(name, dimensions)

    async def get(self, name: str) -> Collection:
        """Raises `NotFound`."""
        return await self._ledger.call(self._ledger.collection, name)

    async def all(self) -> list[Collection]:
        return await self._ledger.call(self._ledger.collections)

    async def drop(self, name: str) -> None:
        """Raises `NotFound`. The points first, so that what is left after a crash still has a name to be dropped by."""
        collection = await self.get(name)
        other = await self._ledger.call(self._ledger.reindex, name)
        await self._store.drop(collection.points_name)
        if other is not None:
            await self._store.drop(other.points_name)
        await self._ledger.call(self._ledger.drop_collection, name)

    async def compatible(self, name: str) -> Collection:
        """The collection, if a model that runs here filled it. Raises `NotFound`, or `Conflict` for another (promise 9)."""
        collection = await self.get(name)
        await self.encoder(collection)
        return collection

    async def encoder(self, collection: Collection) -> Encoder:
        """The encoder whose model filled the collection. Raises `Conflict` when there is none."""
        found = await self._encoders.by_fingerprint(collection.fingerprint)
        if found is None:
            present = await self._encoders.first.info()
            raise Conflict(mismatch(collection, present.fingerprint), field="collection", value=collection.name)
        return found[0]

    def points(self, collection: Collection) -> Points:
        """Those of its present generation."""
        return self._store.points(collection.points_name)

    async def count(self, name: str) -> int:
        return await self.points(await self.get(name)).count()


def require_same_model(collection: Collection, fingerprint: str) -> None:
    """Raises `Conflict`: vectors of another model mean nothing in this collection (promise 9)."""
    if collection.fingerprint != fingerprint:
        raise Conflict(mismatch(collection, fingerprint), field="collection", value=collection.name)


def mismatch(collection: Collection, fingerprint: str) -> str:
    return (
        f"collection {collection.name!r} was filled by model {collection.model} ({collection.fingerprint[:12]}), "
        f"this encoder is {fingerprint[:12]}: serve that model, or reindex the collection"
    )
