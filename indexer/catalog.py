"""Collections: a row of the ledger and points in the store, made and dropped together, bound to the model that fills
them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from indexer.domain.collections import Collection, Counts, PassageSettings, Reindex
from indexer.domain.names import COLLECTION_NAME, IN_WORDS
from indexer.encoding.encoder import Encoder
from indexer.encoding.registry import Encoders
from indexer.filters import FieldType, check_field
from indexer.ledger.ledger import Ledger
from indexer.store.base import Layout, Points, ServerOptions, Store, Summary
from indexer.store.bm25 import check_language
from model.errors import Conflict, InvalidInput, NotFound, RetrievalError
from model.types import ModelInfo

MAX_DECLARED = 64  # fields of one collection; each index takes memory, and time with every write
_NAME = re.compile(COLLECTION_NAME)


class Catalog:
    """Safe to use from many tasks."""

    def __init__(self, ledger: Ledger, store: Store, encoder: Encoder | Encoders) -> None:
        self._ledger, self._store, self._encoders = ledger, store, Encoders.of(encoder)

    async def create(
        self,
        name: str,
        *,
        instruction: str | None = None,
        limit: int | None = None,
        indexes: Mapping[str, FieldType] | None = None,
        language: str | None = None,
        model: str | None = None,
        passages: PassageSettings | None = None,
        server: ServerOptions | None = None,
        like: Collection | None = None,
    ) -> tuple[Collection, bool]:
        """Create a collection, and return it and whether it is new. Raises `Conflict` if it exists with other settings
        or another model; settings that are None are not compared. Raises `ModelNotFound` when no model of that name is
        served.

        `language` is that of the words of its texts; a new collection has `simple` by default. `model` is the name of a
        served model; a new collection has the default. A Qdrant server keeps a new collection as `server` says, or as
        it keeps `like`.

        The store comes first, whether or not the ledger knows the name: what a process left behind that died while
        creating the collection is complete after the next `create`. Raises `PointsMissing` for a collection that had
        documents and whose points are lost, or partly deleted: made anew it would answer as if it had none.
        """
        _check_name(name, "collection")
        if language is not None:
            check_language(language)
        declared = _checked(indexes or {})
        settings: dict[str, Any] = {
            "instruction": instruction,
            "limit": limit,
            "indexes": declared,
            "passages": passages,
        }
        info = None if model is None else (await self._encoders.find(model))[1]
        if info is not None:
            settings["model"] = info
        try:
            existing = _same(await self._present(name), settings)
        except NotFound:
            pass
        else:
            await self._require_points(existing)
            if server is not None:
                await self._require_kept(existing, server)
            await self._store.create(existing.points_name, existing.dimensions, existing.indexes, language=language)
            return existing, False
        info = info or (await self._encoders.find())[1]
        passages = passages or PassageSettings()
        _check_passages(passages, info.max_text_tokens)
        collection = Collection(
            name,
            info.fingerprint,
            info.name,
            info.dimensions,
            time.time(),
            instruction,
            limit=limit,
            indexes=declared,
            passages=passages,
        )
        if documents := await self._stored_documents(collection.points_name):
            try:
                return _same(await self._present(name), settings), False  # another request made and filled it meanwhile
            except NotFound:
                raise _unknown_points(name, documents) from None
        await self._make_points(
            collection.points_name, info, declared, language, like=like and like.points_name, options=server
        )
        try:
            await self._ledger.collections.create(collection)
        except Conflict:  # another request made it meanwhile
            return _same(await self._present(name), settings), False
        return collection, True

    async def create_like(self, origin: Collection, name: str) -> Collection:
        """Return the collection of this name, for documents of another one: a present one of the same model, or a new
        one with the same settings. Raises `Conflict` for one of another model."""
        if name == origin.name:
            raise InvalidInput(f"collection {name!r} cannot be copied to itself", field="to", value=name)
        try:
            present = await self.get(name)
        except NotFound:
            layout = await self.layout(origin)
            created, _ = await self.create(
                name,
                instruction=origin.instruction,
                limit=origin.limit,
                indexes=origin.indexes,
                passages=origin.passages,
                language=layout.language,
                model=origin.model,
                like=origin,
            )
            return created
        if present.name == origin.name:
            raise InvalidInput(f"{name!r} is an alias of {origin.name!r}: it cannot be copied to itself", field="to")
        if present.fingerprint != origin.fingerprint:
            raise Conflict(
                f"collection {present.name!r} is of model {present.model} ({present.fingerprint[:12]}), "
                f"{origin.name!r} "
                f"of {origin.model} ({origin.fingerprint[:12]}): copy to a new collection, or reindex one of them",
                field="to",
                value=name,
            )
        return present

    async def _present(self, name: str) -> Collection:
        """Return the collection of exactly this name, if a model that runs here filled it. Raises `NotFound`,
        `Conflict`."""
        collection = await self._named(name)
        await self.encoder(collection)
        return collection

    async def _stored_documents(self, points_name: str) -> int:
        """Count the documents that the store has under this name. Raises `Conflict` for points that are not of this
        service.
        """
        try:
            return await self._store.points(points_name).count()
        except NotFound:
            return 0

    async def _require_points(self, collection: Collection) -> None:
        """Raise `PointsMissing` where the store lacks a collection into which documents were written."""
        if collection.precisions:
            await self.points(collection).page(None, 1)

    async def _require_kept(self, collection: Collection, options: ServerOptions) -> None:
        """Raise `Conflict` where a server keeps the collection otherwise. An embedded index refuses any options."""
        summary = (await self.summaries([collection]))[collection.name]
        if isinstance(summary, RetrievalError):
            raise summary
        if summary.kept is None:
            await self._store.create(collection.points_name, collection.dimensions, options=options)
            return
        for option, requested in options.changed_from(summary.kept).chosen().items():
            present = getattr(summary.kept, option)
            raise Conflict(
                f"collection {collection.name!r} exists with server.{option} {present!r}, not {requested!r}; PATCH "
                "changes what can be changed",
                field=f"server.{option}",
                value=requested,
                limit=present,
            )

    async def _make_points(
        self, name: str, info: ModelInfo, indexes: Mapping[str, FieldType], language: str | None, **keeping: Any
    ) -> None:
        """Create the points of a new collection, of which the store has none or the empty ones of a creation cut
        short."""
        create = partial(
            self._store.create, name, info.dimensions, indexes, language=language, latents=info.latents > 1, **keeping
        )
        try:
            await create()
        except Conflict:
            # Left by a creation for another model that was cut short. Only what is empty, and ours, is replaced.
            if documents := await self._stored_documents(name):
                raise _unknown_points(name, documents) from None
            await self._store.drop(name)
            await create()

    async def change(self, name: str, settings: Mapping[str, Any]) -> Collection:
        """Change `instruction`, `limit`, `passages`, `indexes` or `server` of a collection, and return it. New indexes
        are added to the present ones. `server` changes how a Qdrant server keeps it, and raises `InvalidInput` where it
        cannot.

        Raises `Conflict` for a field that is declared as another type. While the store builds an index, filters read
        the metadata.
        """
        added = _checked(settings.get("indexes") or {})

        def changed(collection: Collection) -> Collection:
            clashing = [field for field in added if collection.indexes.get(field, added[field]) != added[field]]
            if clashing:
                raise _redeclared(collection, clashing[0], added[clashing[0]])
            return replace(collection, **{**settings, "indexes": _checked({**collection.indexes, **added})})

        collection = await self._named(name)
        settings = dict(settings)
        server: ServerOptions | None = settings.pop("server", None)
        if (language := settings.pop("language", None)) is not None:
            await self._require_language(collection, language)
        if (model := settings.pop("model", None)) not in (None, collection.model):
            raise _of_another_model(collection, str(model))
        if "passages" in settings:
            _check_passages(settings["passages"], (await (await self.encoder(collection)).info()).max_text_tokens)
        changed(collection)
        await self._require_points(collection)
        # Before the ledger says so: what is declared has its index, also after a crash between the two.
        await self._store.create(collection.points_name, collection.dimensions, added, options=server)
        if (reindex := await self._ledger.reindexes.find(name)) is not None:
            await self._store.create(reindex.points_name, reindex.dimensions, added, options=server)
        return await self._ledger.collections.change(name, changed)

    async def _require_language(self, collection: Collection, language: str) -> None:
        present = (await self.layout(collection)).language
        if language != present:
            raise Conflict(
                f"collection {collection.name!r} keeps words of {present!r}, not {language!r}. A language stays: fill "
                "a new collection "
                "of the other, and switch an alias to it",
                field="language",
                value=language,
                limit=present,
            )

    async def get(self, name: str) -> Collection:
        """Return a collection by its name or an alias. Raises `NotFound`."""
        return await self._ledger.collections.resolve(name)

    async def _named(self, name: str) -> Collection:
        """Return a collection by its own name, in order to change or delete it. Raises `NotFound`, or `Conflict` for an
        alias."""
        collection = await self.get(name)
        if collection.name != name:
            raise Conflict(
                f"{name!r} is an alias of collection {collection.name!r}: name the collection itself",
                field="name",
                value=name,
            )
        return collection

    async def all(self) -> list[Collection]:
        return await self._ledger.collections.all()

    async def drop(self, name: str) -> None:
        """Delete a collection with its aliases. Raises `NotFound`. The points go first, so that leftovers of a crash
        still have a name by which they can be dropped."""
        collection = await self._named(name)
        reindex = await self._ledger.reindexes.find(name)
        await self._store.drop(collection.points_name)
        if reindex is not None:
            await self._store.drop(reindex.points_name)
        await self._ledger.collections.drop(name)
        if (
            reindex is not None
        ):  # a reindexer may have made it again meanwhile; from now on it looks whether it is still wanted
            await self._store.drop(reindex.points_name)

    async def compatible(self, name: str) -> Collection:
        """Return the collection if a model that runs here filled it. Raises `NotFound`, or `Conflict` for another model
        (docs/promises.md#promise-9)."""
        collection = await self.get(name)
        await self.encoder(collection)
        return collection

    async def encoder(self, collection: Collection) -> Encoder:
        """Return the encoder whose model filled the collection. Raises `Conflict` if there is none."""
        match = await self._encoders.by_fingerprint(collection.fingerprint, collection.model)
        if match is None:
            detail = await not_served(self._encoders, collection)
            raise Conflict(detail, field="collection", value=collection.name)
        return match[0]

    def points(self, collection: Collection) -> Points:
        """Return the points of the collection's present generation."""
        return self._store.points(collection.points_name)

    async def layout(self, collection: Collection) -> Layout:
        return await self.points(collection).layout()

    async def summaries(self, collections: Sequence[Collection]) -> dict[str, Summary | RetrievalError]:
        """Return what the store says of each collection, by name."""
        summaries = await self._store.summaries([collection.points_name for collection in collections])
        return {collection.name: summaries[collection.points_name] for collection in collections}

    async def counts(self, collection: Collection | None = None) -> dict[str, Counts]:
        """Return the counts by collection, of one or of all. A collection without such documents may be left out."""
        return await self._ledger.collections.counts(collection.name if collection else None)

    async def aliases(self, collection: Collection | None = None) -> dict[str, str]:
        """Return the collection of each alias, of all aliases or of those of one collection."""
        return await self._ledger.aliases.all(collection.name if collection else None)

    async def set_alias(self, alias: str, collection: str) -> bool:
        """Point an alias at a collection, for searches that begin from now on, and return whether the alias is new.
        Raises `NotFound`, `Conflict`."""
        _check_name(alias, "alias")
        return await self._ledger.aliases.set(alias, collection)

    async def drop_alias(self, alias: str) -> None:
        """Delete an alias. Raises `NotFound`."""
        await self._ledger.aliases.drop(alias)


def _check_name(name: str, subject: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{subject} name {name!r:.100} {IN_WORDS[COLLECTION_NAME]}",
            field="name",
            value=name[:100],
            limit=63,
        )


def _checked(indexes: Mapping[str, FieldType]) -> dict[str, FieldType]:
    if len(indexes) > MAX_DECLARED:
        raise InvalidInput(
            f"{len(indexes)} declared fields, limit is {MAX_DECLARED}",
            field="indexes",
            value=len(indexes),
            limit=MAX_DECLARED,
        )
    for field in indexes:
        check_field(field, "indexes")
    return dict(indexes)


def _check_passages(passages: PassageSettings, most: int) -> None:
    """Raise `InvalidInput` for passages that the model would not read whole."""
    tokens = passages.tokens or most
    if tokens > most:
        raise InvalidInput(
            f"passages.tokens is {tokens}, the model reads {most}: name at most as many",
            field="passages.tokens",
            value=tokens,
            limit=most,
        )
    if passages.overlap > tokens // 2:
        raise InvalidInput(
            f"passages.overlap is {passages.overlap}, at most half of the {tokens} tokens of a passage",
            field="passages.overlap",
            value=passages.overlap,
            limit=tokens // 2,
        )


def _shown(setting: Any) -> str:
    return repr(asdict(setting) if isinstance(setting, PassageSettings) else setting)


def _unknown_points(name: str, documents: int) -> Conflict:
    return Conflict(
        f"the store has a collection {name!r} with {documents} documents that this service's ledger does not know. It "
        "is left as it "
        "is: choose another name, restore the ledger that belongs to it, or remove it from the store",
        field="name",
        value=name,
    )


def _of_another_model(collection: Collection, model: str) -> Conflict:
    return Conflict(
        f"collection {collection.name!r} exists with model {collection.model} ({collection.fingerprint[:12]}), not "
        f"{model}. POST /collections/{collection.name}/reindex embeds it again with another model, and "
        "switches to that",
        field="model",
        value=model,
        limit=collection.model,
    )


def _redeclared(collection: Collection, field: str, kind: FieldType) -> Conflict:
    return Conflict(
        f"field {field} of collection {collection.name!r} is declared {collection.indexes[field]}, not {kind}. A "
        "declared type stays: "
        "fill a new collection that declares the other, and switch an alias to it",
        field=f"indexes.{field}",
        value=kind,
        limit=collection.indexes[field],
    )


def require_same_model(collection: Collection, fingerprint: str) -> None:
    """Raise `Conflict` if another model filled the collection: its vectors cannot be compared with this model's
    (docs/promises.md#promise-9)."""
    if collection.fingerprint != fingerprint:
        raise Conflict(mismatch(collection, fingerprint), field="collection", value=collection.name)


def mismatch(collection: Collection, fingerprint: str) -> str:
    """Return the message for an embedding of another model, as after an encoder was restarted with one."""
    return (
        f"collection {collection.name!r} was filled by model {collection.model} ({collection.fingerprint[:12]}), "
        f"this embedding is by {fingerprint[:12]}: serve that model, or reindex the collection"
    )


async def not_served(encoders: Encoders, target: Collection | Reindex) -> str:
    """Return the message for a collection whose model no encoder serves."""
    name = target.name if isinstance(target, Collection) else target.collection
    served = ", ".join(
        f"{model.name} ({model.info.fingerprint[:12]})" if model.info else model.name
        for model in await encoders.served()
    )
    return (
        f"collection {name!r} was filled by model {target.model} ({target.fingerprint[:12]}), which is not served any "
        f"more; served are {served}. Start the service with that model too, as --model {target.model}=SOURCE, or "
        "reindex the collection with one that is served"
    )


def _same(collection: Collection, settings: Mapping[str, Any]) -> Collection:
    model: ModelInfo | None = settings.get("model")
    if model is not None and model.fingerprint != collection.fingerprint:
        raise _of_another_model(collection, model.name)
    for name in ("instruction", "limit", "passages"):
        present, requested = getattr(collection, name), settings[name]
        if requested is not None and requested != present:
            raise Conflict(
                f"collection {collection.name!r} exists with {name} {_shown(present)}, not {_shown(requested)}; "
                "PATCH changes it",
                field=name,
                value=_shown(requested) if name == "passages" else requested,
            )
    for field, kind in settings["indexes"].items():
        if field not in collection.indexes:
            raise Conflict(
                f"collection {collection.name!r} exists without a declared field {field}; PATCH adds it",
                field=f"indexes.{field}",
                value=kind,
            )
        if collection.indexes[field] != kind:
            raise _redeclared(collection, field, kind)
    return collection
