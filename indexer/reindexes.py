"""Orders about the generations of a collection: begin one, cancel, roll back, finish. `indexer.worker.reindexer`
carries them out.
"""

from __future__ import annotations

from collections.abc import Awaitable

from indexer.catalog import Catalog
from indexer.domain.collections import Collection, Reindex, ReindexState
from indexer.domain.jobs import Job
from indexer.encoding.registry import Encoders, ModelState
from indexer.ledger.ledger import Ledger
from indexer.loops import WakeUps
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound
from model.types import ModelInfo


class Reindexes:
    """Safe to use from many tasks. Each order is in the ledger when it returns. It wakes the reindexer of this process
    by `orders`.
    """

    def __init__(self, ledger: Ledger, catalog: Catalog, encoders: Encoders, *, orders: WakeUps | None = None) -> None:
        self._ledger, self._catalog, self._encoders, self._orders = ledger, catalog, encoders, orders or WakeUps()

    async def start(self, name: str, *, model: str | None = None, max_failures: int = 0) -> tuple[Job, bool]:
        """Start a reindex, and return its job and whether that is new. `model` is the name of a model that runs here,
        or its fingerprint or the beginning of it.

        Raises `Conflict` if no model but the collection's own runs here, or while the collection has another
        generation; `DependencyUnavailable` while the other model is being loaded.
        """
        collection = await self._catalog.get(name)
        target = await self._target(collection, model)
        documents = await self._catalog.points(collection).count()
        started = await self._ledger.reindexes.start(collection, target, documents=documents, max_failures=max_failures)
        self._orders.work_arrived()
        return started

    async def get(self, name: str) -> Reindex:
        """Return the reindex of a collection. Raises `NotFound` if the collection has only one generation."""
        collection = await self._catalog.get(name)
        reindex = await self._ledger.reindexes.find(collection.name)
        if reindex is None:
            raise NotFound(f"collection {name!r} has no other generation", field="collection", value=name)
        return reindex

    async def cancel(self, name: str) -> Job:
        """Give up the new generation, before the switch."""
        reindex = await self.get(name)
        if not reindex.state.before_switch:
            raise _too_late(reindex, "cancelled")
        job = await self._ledger.jobs.cancel(reindex.job_id)
        self._orders.work_arrived()
        return job

    async def roll_back(self, name: str) -> Reindex:
        """Let the previous generation serve again, after the switch and while it is kept, with all that was written
        meanwhile."""
        reindex = await self.get(name)
        if reindex.state is not ReindexState.KEPT:
            raise _too_late(reindex, "rolled back")
        if await self._encoders.by_fingerprint(reindex.fingerprint, reindex.model) is None:
            raise Conflict(
                f"the previous generation of {name!r} is of model {reindex.model} ({reindex.fingerprint[:12]}), "
                "which is not served any more: start the service with it again first",
                field="collection",
                value=name,
            )
        return await self._order(reindex, self._ledger.reindexes.pause(reindex))

    async def finish(self, name: str) -> Reindex:
        """Give up the previous generation early, after the switch."""
        reindex = await self.get(name)
        if reindex.state is not ReindexState.KEPT:
            raise _too_late(reindex, "finished")
        return await self._order(reindex, self._ledger.reindexes.expire(reindex))

    async def _order(self, reindex: Reindex, step: Awaitable[bool]) -> Reindex:
        if not await step:
            raise DependencyUnavailable(f"the generations of {reindex.collection!r} are changing just now; try again")
        self._orders.work_arrived()
        return await self._ledger.reindexes.find(reindex.collection) or reindex

    async def _target(self, collection: Collection, model: str | None) -> ModelInfo:
        """Return the model to reindex to: the named one; else the present model of the collection's name, if that has
        changed; else the only other one."""
        models = await self._encoders.served()
        running = [served.info for served in models if served.info is not None]
        candidates = [info for info in running if info.fingerprint != collection.fingerprint]
        loaded = ", ".join(f"{info.name} ({info.fingerprint[:12]})" for info in running)
        if model is not None:
            chosen = [info for info in candidates if info.name == model or info.fingerprint.startswith(model)]
        else:
            chosen = [info for info in candidates if info.name == collection.model] or candidates
            if len(chosen) > 1:
                raise InvalidInput(
                    f"collection {collection.name!r} is of model {collection.model} ({collection.fingerprint[:12]}) "
                    f"and could go to several: name one as model. Served are {loaded}",
                    field="model",
                )
        if chosen:
            return chosen[0]
        for served in models:
            if served.state is ModelState.LOADING and model in (None, served.name):
                raise DependencyUnavailable(f"model {served.name} is still being loaded; try again")
        requested = "another model" if model is None else f"{model!r:.100}, other than that of the collection,"
        raise Conflict(
            f"collection {collection.name!r} is of model {collection.model} ({collection.fingerprint[:12]}) and "
            f"{requested} is not served here, but {loaded}: start the service with it, as --model NAME=SOURCE beside "
            "those that it has",
            field="model",
            value=model,
        )


def _too_late(reindex: Reindex, action: str) -> Conflict:
    return Conflict(
        f"the other generation of {reindex.collection!r} is {reindex.state}: it cannot be {action}",
        field="collection",
        value=reindex.collection,
    )
