"""Deferring the HNSW index of a collection on a Qdrant server while a load fills most of it. A chore of the worker.

    documents to come of one job: many, and more than are there ──► deferred ──► fewer than are there ──► indexed again

Without it Qdrant builds the graph of a segment, merges the segment with others and builds again, while it takes writes.
A search reads every vector that is in no graph, so a load that adds less than is there is indexed as it goes, and of a
larger one what comes last.

Nothing is counted or remembered: each look compares the ledger's jobs with what the server says of its collections, and
changes what differs. Whoever died half-way, the next look of any process puts it right.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import structlog

from indexer.domain.collections import ReindexState
from indexer.domain.jobs import JobKind
from indexer.ledger.ledger import Ledger
from indexer.loops import poll_forever
from model.errors import NotFound

if TYPE_CHECKING:
    from indexer.store.server.store import ServerStore

log = structlog.get_logger(__name__)
_CHORE = "bulk loads"
_EVERY_S = 30.0  # a load that is worth it takes many minutes; a look costs a small request for each collection


class BulkLoads:
    """`run` is a chore of the worker; `look` does it now. Several at once do no harm. `documents`: to come, from which
    on a load is one.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: ServerStore,
        documents: int,
        *,
        every_s: float = _EVERY_S,
        rng: random.Random | None = None,
    ) -> None:
        self._ledger, self._store, self._documents, self._every_s = ledger, store, documents, every_s
        self._rng = rng or random.Random()

    async def run(self) -> None:
        """Look periodically until cancelled, in one process at a time."""
        await poll_forever(
            self._look_in_turn, self._every_s, failure="cannot defer indexing", rng=self._rng, wait_first=True
        )

    async def _look_in_turn(self) -> None:
        if await self._ledger.housekeeping.take_turn(_CHORE, self._every_s):
            await self.look()

    async def look(self) -> None:
        """Set or end the deferral for every collection. Raises `RetrievalError` if ledger or store does not answer."""
        for name, to_come in (await self._to_come()).items():
            with contextlib.suppress(NotFound):  # not made yet, or gone
                deferred = to_come > 0 and to_come > await self._store.points(name).count()
                if await self._store.defer_indexing(name, deferred):
                    log.info("indexing is deferred" if deferred else "indexing goes on", points=name, to_come=to_come)

    async def _to_come(self) -> dict[str, int]:
        """Return, by the name of its points, how many documents the largest load of each generation will bring; 0
        without a load."""
        serving = {reindex.name: reindex.points_name for reindex in await self._ledger.collections.all()}
        reindexes = await self._ledger.reindexes.all()
        filling = {
            reindex.job_id: reindex.points_name for reindex in reindexes if reindex.state is not ReindexState.DROPPING
        }
        to_come = dict.fromkeys((*serving.values(), *filling.values()), 0)
        for job in await self._ledger.jobs.bulk_loads(self._documents):
            name = filling.get(job.id) if job.kind is JobKind.REINDEX else serving.get(job.collection)
            if name is not None:  # else it came or went between two questions
                to_come[name] = max(to_come[name], job.left)
        return to_come
