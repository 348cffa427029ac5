"""Garbage collection of stored images: delete those to which no document, unfinished batch or retryable failure refers.
One worker does it periodically.

unfinished batches ─► failures ─► points of every collection ─► digests in a temporary file ─► `Blobs.sweep` deletes old
images whose digest is not among them

References are read from the ledger and the store themselves, a page at a time. A separate table of references would
have to stay correct through every crash, restore and reindex, and would cost something at each write. A page of a
thousand points is one read of the store, about the cost of listing a thousand images.

The order of reading makes the sweep safe beside writes. A reference moves from a batch to a failure or a point, and
from a failure through a batch to a point. So a reference that moves during the sweep has been seen at its origin or
will be seen at its destination. Images of new documents were just stored and are too young to be deleted.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import structlog

from indexer.blobs.image_store import Blobs, Swept
from indexer.ledger.ledger import Ledger
from indexer.loops import poll_forever
from indexer.store.base import Store
from model.errors import DependencyUnavailable, NotFound

log = structlog.get_logger(__name__)
_CHORE = "sweep"
# Seconds between two checks whether a sweep is due.
_LOOK_S = 600.0
# Page sizes.
_BATCHES, _FAILURES, _POINTS = 20, 500, 1000


class Sweeper:
    """`run` sweeps periodically; `sweep` sweeps now. Concurrent sweeps are harmless."""

    def __init__(
        self, ledger: Ledger, store: Store, blobs: Blobs, every_s: float, *, rng: random.Random | None = None
    ) -> None:
        self._ledger, self._store, self._blobs, self._every_s = ledger, store, blobs, every_s
        self._rng = rng or random.Random()

    async def run(self) -> None:
        """Sweep periodically until cancelled, in one process at a time."""
        look_s = min(self._every_s, _LOOK_S)
        await poll_forever(self._look, look_s, failure="images not swept", rng=self._rng, wait_first=True)

    async def _look(self) -> None:
        if await self._ledger.housekeeping.take_turn(_CHORE, self._every_s):
            swept = await self.sweep()
            log.info("images swept", kept=swept.kept, deleted=swept.deleted, deleted_bytes=swept.deleted_bytes)

    async def sweep(self) -> Swept:
        """Delete images without references. Raises `RetrievalError` if not every reference can be read, and deletes
        nothing then."""
        with _marks() as marks:
            await self._mark_ledger(marks, self._ledger.housekeeping.images_waiting, _BATCHES)
            await self._mark_ledger(marks, self._ledger.housekeeping.images_to_retry, _FAILURES)
            await self._mark_ledger(marks, self._ledger.housekeeping.images_in_doubt, _FAILURES)
            for collection in await self._ledger.collections.all():
                await self._mark_points(marks, collection.points_name)
            for reindex in await self._ledger.reindexes.all():
                # The generation may not have been created yet, or may be dropped already.
                with contextlib.suppress(NotFound):
                    await self._mark_points(marks, reindex.points_name)

            async def marked(digests: Sequence[str]) -> set[str]:
                return await self._blobs.run(partial(marks.among, digests))

            return await self._blobs.sweep(marked)

    async def _mark_ledger(
        self, marks: _Marks, page: Callable[[int, int], Awaitable[tuple[set[str], int | None]]], size: int
    ) -> None:
        after: int | None = 0
        while after is not None:
            digests, after = await page(after, size)
            await self._blobs.run(partial(marks.add, digests))

    async def _mark_points(self, marks: _Marks, name: str) -> None:
        points = self._store.points(name)
        after: str | None = None
        while True:
            digests, after = await points.images(after, _POINTS)
            await self._blobs.run(partial(marks.add, digests))
            if after is None:
                return


class _Marks:
    """A set of digests in a file, because there may be many millions. One thread at a time may use it."""

    def __init__(self, file: Path) -> None:
        with _our_errors():
            self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            for pragma in ("journal_mode=OFF", "synchronous=OFF"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute("CREATE TABLE marks (digest BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, digests: Iterable[str]) -> None:
        with _our_errors():
            rows = [(bytes.fromhex(digest),) for digest in digests]
            self._db.executemany("INSERT OR IGNORE INTO marks VALUES (?)", rows)

    def among(self, digests: Sequence[str]) -> set[str]:
        with _our_errors():
            find = "SELECT 1 FROM marks WHERE digest = ?"
            return {digest for digest in digests if self._db.execute(find, (bytes.fromhex(digest),)).fetchone()}

    def close(self) -> None:
        self._db.close()


@contextmanager
def _marks() -> Iterator[_Marks]:
    with _our_errors():
        folder = tempfile.TemporaryDirectory(prefix="ret2-sweep-")
    with folder as path, closing(_Marks(Path(path) / "marks")) as marks:
        yield marks


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise DependencyUnavailable(f"the folder for temporary files: {type(error).__name__}") from error
