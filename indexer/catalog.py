"""Collections: a row of the ledger and points in the store, made and dropped together, bound to the model that fills them."""

from __future__ import annotations

import re
import time

from indexer.encoder import Encoder
from indexer.ledger import Ledger
from indexer.lexical import SIMPLE, check_language
from indexer.records import Collection
from indexer.store import Layout, Store
from model.errors import Conflict, InvalidInput, NotFound
from model.inputs import ModelInfo

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Catalog:
    """Safe to use from many tasks."""

    def __init__(self, ledger: Ledger, store: Store, encoder: Encoder) -> None:
        self._ledger, self._store, self._encoder = ledger, store, encoder

    async def create(
        self, name: str, *, instruction: str | None = None, language: str | None = None
    ) -> tuple[Collection, bool]:
        """The collection and whether it is new. Raises `Conflict` when it is there with other settings or of another model.

        `language` is that of the words of its texts; unset: as it is, in a new collection `simple`.

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
        if language is not None:
            check_language(language)
        info = await self._encoder.info()
        wanted = Collection(name, info.fingerprint, info.name, info.dimensions, time.time(), instruction)
        try:
            there = _same(await self.get(name), wanted)
        except NotFound:
            there = None
        if there is not None:
            await self._store.create(name, info.dimensions, language=language)
        else:
            await self._make_points(name, info, language or SIMPLE)
        if there is not None:
            return there, False
        try:
            await self._ledger.call(self._ledger.create_collection, wanted)
        except Conflict:  # another request made it meanwhile
            return _same(await self.get(name), wanted), False
        return wanted, True

    async def _make_points(self, name: str, info: ModelInfo, language: str) -> None:
        latents = info.latents > 1
        try:
            await self._store.create(name, info.dimensions, language=language, latents=latents)
        except Conflict:
            # Left over from a `create` of another model that died: empty, for nobody could name it.
            await self._store.drop(name)
            await self._store.create(name, info.dimensions, language=language, latents=latents)

    async def get(self, name: str) -> Collection:
        """Raises `NotFound`."""
        return await self._ledger.call(self._ledger.collection, name)

    async def all(self) -> list[Collection]:
        return await self._ledger.call(self._ledger.collections)

    async def drop(self, name: str) -> None:
        """Raises `NotFound`. The points first, so that what is left after a crash still has a name to be dropped by."""
        await self.get(name)
        await self._store.drop(name)
        await self._ledger.call(self._ledger.drop_collection, name)

    async def compatible(self, name: str) -> Collection:
        """The collection, if the present model filled it. Raises `NotFound`, or `Conflict` for another model (promise 9)."""
        collection, info = await self.get(name), await self._encoder.info()
        require_same_model(collection, info.fingerprint)
        return collection

    async def layout(self, name: str) -> Layout:
        return await self._store.points(name).layout()

    async def count(self, name: str) -> int:
        return await self._store.points(name).count()


def require_same_model(collection: Collection, fingerprint: str) -> None:
    """Raises `Conflict`: vectors of another model mean nothing in this collection (promise 9)."""
    if collection.fingerprint != fingerprint:
        raise Conflict(mismatch(collection, fingerprint), field="collection", value=collection.name)


def mismatch(collection: Collection, fingerprint: str) -> str:
    return (
        f"collection {collection.name!r} was filled by model {collection.model} ({collection.fingerprint[:12]}), "
        f"this encoder is {fingerprint[:12]}: serve that model, or fill a new collection"
    )


def _same(there: Collection, wanted: Collection) -> Collection:
    require_same_model(there, wanted.fingerprint)
    if there.instruction != wanted.instruction:
        raise Conflict(
            f"collection {there.name!r} exists with instruction {there.instruction!r}, not {wanted.instruction!r}",
            field="instruction",
            value=wanted.instruction,
        )
    return there
