"""Qdrant Edge as a store: the client of the child process (`edge_process`) that owns one data directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from indexer.domain.documents import point_id
from indexer.domain.points import Hit, MetadataChange, Page, Point, Stretch
from indexer.errors import StoreDied, StoreTimedOut
from indexer.filters import FieldType, Filter
from indexer.observability.watch import NOBODY, Watch
from indexer.store.base import Consistency, Layout, SearchWindow, ServerOptions, Summary
from indexer.store.boosts import candidates_of
from indexer.store.criteria import Boosted, Criterion, Hybrid, LateInteraction, Nearest, Place, Ranked, WordMatch
from indexer.store.edge.batch import pack as pack_points
from indexer.store.edge.calls import Calls, Request
from indexer.store.edge.child import start
from indexer.store.edge.columns import EdgeColumns
from indexer.store.edge.settings import EdgeSettings
from indexer.store.edge.slices import READS_PER_CALL, Paused, Slice, Slices
from indexer.store.edge.snapshot import pack
from indexer.store.fusion import fuse, places
from indexer.store.indexes import READABLE_DOCUMENTS
from indexer.store.measure import measured
from indexer.store.ties import in_order
from model.child_output import ChildOutput, ending
from model.errors import DependencyUnavailable, InvalidInput, RetrievalError
from model.types import Float32

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # of a busy machine, over the wait for the lock; 0.2 s is usual
ANSWER_TIMEOUT_S = 120.0  # the longest call is a search behind the vacuum of a large collection
# Characters of text and values of vectors of one call that writes: some 0.1 s. Searches wait for the call in hand.
CALL_SIZE = 500_000
WRITES_AT_A_TIME = 2
SUMMARIES_PER_CALL = 200  # some 8 ms where they are read from files
COPY_TIMEOUT_S = 3_600.0  # of a snapshot or a restoration
CLOSE_TIMEOUT_S = 30.0
_PAUSE_S = 0.02


class EdgeStore:
    """The collections in one folder, each a Qdrant Edge shard. One store per folder; a second is refused.

    Calls run one by one in the child process, in the order made; callers only await. A child that dies is replaced at
    the next call, and the call it died in is repeated once: every one of them is idempotent. Whoever made the store
    closes it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lock_wait_s: float = 10.0,
        reads_per_call: int = READS_PER_CALL,
        readable_documents: int = READABLE_DOCUMENTS,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        settings: EdgeSettings | None = None,
        watch: Watch = NOBODY,
    ) -> None:
        """`lock_wait_s` bounds the wait for another process, usually one that is ending, to release the folder. A
        filter that reads more payloads than `reads_per_call` is answered in slices. A call that takes longer than
        `answer_timeout_s` ends the child process and raises `StoreTimedOut`."""
        self.watch = watch
        self._child = _Child(
            folder, lock_wait_s, reads_per_call, readable_documents, answer_timeout_s, settings or EdgeSettings()
        )
        self._calls = Calls(self._child.ask)
        self._closed = False

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
        """Create what is missing of a collection with this layout, its indexes included. Raises `Conflict` if it exists
        with another layout."""
        if options is not None and (chosen := options.chosen()):
            raise InvalidInput(
                f"server.{next(iter(chosen))} is set, and this collection is in an embedded index: it has no such "
                "settings, a collection on a Qdrant server has (RET2_QDRANT_URL)",
                field="server",
                value=chosen,
            )
        await self._call("create", name, dimensions, dict(indexes or {}), language, latents)

    @measured
    async def drop(self, name: str) -> None:
        await self._call("drop", name)

    @measured
    async def snapshot(self, name: str, file: Path) -> None:
        """Write the present state of a collection to one file, completely or not at all. Other calls wait while its
        files are copied, but not while they are packed: 0.5 s of 10 s for 100,000 x 256 on a busy machine."""
        copied = file.with_name(f".copy-{file.name}")
        await self._call("copy", name, copied)
        await asyncio.to_thread(pack, copied, file)

    @measured
    async def restore(self, name: str, file: Path) -> None:
        """Restore a file of `snapshot` under any name. Raises `Conflict` if there is such a collection."""
        await self._call("restore", name, file)

    def points(self, name: str) -> EdgePoints:
        return EdgePoints(self._call, name, self.watch)

    @measured
    async def summaries(self, names: Sequence[str]) -> dict[str, Summary | RetrievalError]:
        """Return what is said of each collection. Only those that a killed process had open are opened, one by one, so
        that searches run between them."""
        summaries: dict[str, Summary | RetrievalError] = {}
        for first in range(0, len(names), SUMMARIES_PER_CALL):
            noted = await self._call("summaries", list(names[first : first + SUMMARIES_PER_CALL]))
            for name, summary in noted.items():
                try:
                    summaries[name] = summary or await self._call("summary", name)
                except RetrievalError as error:
                    summaries[name] = error
        return summaries

    @measured
    async def ping(self) -> None:
        await self._call("ping")

    @property
    def versions(self) -> dict[str, str | None]:
        return {}

    @property
    def writes_late(self) -> bool:
        """Always false: one process takes all calls in order, and ends with those that it had."""
        return False

    @property
    def alive(self) -> bool:
        """Always true: a call over its time ends the child process, and the next one starts another."""
        return True

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._calls.close(self._child.stop)

    async def _call(self, method: str, *arguments: Any) -> Any:
        """Call the child, and again while the collection may not change: for the seconds that a copy of it takes."""
        while not self._closed:
            try:
                return await self._calls.call(method, arguments)
            except Paused:
                await asyncio.sleep(_PAUSE_S)
        raise DependencyUnavailable("the store is closed")


class EdgePoints:
    """The points of one collection; `NotFound` on use if the collection does not exist."""

    def __init__(self, call: Any, name: str, watch: Watch) -> None:
        self._call = call
        self._name = name
        self.watch = watch

    @measured
    async def upsert(self, points: Sequence[Point]) -> None:
        """Write the points, in several calls, so that searches run between them. The last one brings all to disk. Of
        more than one call, the others stay written where one is refused."""
        # Of an id that stands there twice the last counts, whichever call is made first.
        points = list({point.document_id: point for point in points}.values())
        if not points:
            return
        layout, size = await self._call("writing", self._name)

        async def prepared(first: int) -> tuple[bytes, int]:
            """Return the batch of the call that begins with this point, and the first point behind it."""
            part = _first(points[first : first + size])
            return await asyncio.to_thread(pack_points, part, layout), first + len(part)

        # Two at a time, so that the child goes on at once, while the next batch is prepared.
        writes: deque[asyncio.Task[int]] = deque()
        try:
            batch, end = await prepared(0)
            while end < len(points):
                writes.append(asyncio.create_task(self._call("write", self._name, layout, batch, False)))
                batch, end = await prepared(end)
                if len(writes) == WRITES_AT_A_TIME:
                    size = await writes.popleft()
            while writes:
                await writes.popleft()
            await self._call("write", self._name, layout, batch, True)
        finally:
            for write in writes:
                write.cancel()
            await asyncio.gather(*writes, return_exceptions=True)

    @measured
    async def set_metadata(self, changes: Sequence[MetadataChange]) -> None:
        await self._call("set_metadata", self._name, list(changes))

    @measured
    async def delete(self, document_ids: Sequence[str]) -> None:
        await self._call("delete", self._name, list(document_ids))

    @measured
    async def fetch(
        self, document_ids: Sequence[str], *, with_latents: bool = False, with_vectors: bool = True
    ) -> list[Point | None]:
        """Return whole points. Vectors come back at length 1, whatever length they had."""
        ids = [point_id(document_id) for document_id in document_ids]
        points: list[Point | None] = []
        while len(points) < len(ids):
            points += await self._call("read", self._name, ids[len(points) :], with_latents, with_vectors)
        return points

    @measured
    async def search(self, criterion: Criterion, window: SearchWindow) -> list[Hit]:
        """Rank and read in one call of the child process, of which the hits of the window come back."""
        hits: list[Hit] | Slices = await self._call("search", self._name, criterion, window)
        if isinstance(hits, Slices):
            ranking = await self._rank_in_slices(hits, criterion, window)
            hits = await self._call("hits", self._name, ranking, window.with_vector)
        return cast(list[Hit], hits)

    @measured
    async def rank(self, criterion: Criterion, window: SearchWindow) -> Sequence[Place]:
        ranking: list[Place] | Slices = await self._call("rank", self._name, criterion, window)
        return await self._rank_in_slices(ranking, criterion, window) if isinstance(ranking, Slices) else ranking

    @measured
    async def hits(
        self, places: Sequence[Place], *, with_vector: bool = False, consistency: Consistency = "one"
    ) -> list[Hit]:
        """Return the hits of a ranking. There is one copy, so `consistency` changes nothing."""
        hits: list[Hit] = await self._call("hits", self._name, list(places), with_vector) if places else []
        return hits

    @measured
    async def best_parts(self, vector: Float32, document_ids: Sequence[str]) -> list[tuple[int, Float32] | None]:
        ids = [point_id(document_id) for document_id in document_ids]
        best: list[tuple[int, Float32] | None] = []
        while len(best) < len(ids):
            best += await self._call("best_parts", self._name, vector, ids[len(best) :])
        return best

    async def _rank_in_slices(self, slices: Slices, criterion: Criterion, window: SearchWindow) -> list[Place]:
        if isinstance(criterion, Boosted):
            chosen = await self._rank_in_slices(slices, criterion.ranking, candidates_of(criterion, window))
            ranking: list[Place] = await self._call("boost", self._name, criterion, chosen, window)
            return ranking
        if not isinstance(criterion, Hybrid):
            return places(criterion, await self._rank_slices(slices, criterion, window))
        candidates = replace(window, limit=criterion.candidates, offset=0, score_threshold=None)
        embedding = await self._rank_slices(slices, criterion.embedding, candidates)
        words = await self._rank_slices(slices, criterion.words, candidates)
        return fuse(criterion, embedding, words, window)

    async def _rank_slices(
        self, slices: Slices, criterion: Nearest | WordMatch | LateInteraction, window: SearchWindow
    ) -> Ranked:
        """Rank one slice of the collection after another. Other calls run between two of them, and a cancelled call
        stops there.
        """
        if isinstance(criterion, LateInteraction):
            candidates = replace(window, limit=criterion.candidates, offset=0, score_threshold=None)
            near = await self._rank_slices(slices, Nearest(criterion.vector), candidates)
            reranked: Ranked = await self._call("rerank", self._name, criterion, window, [point for point, _ in near])
            return reranked
        whole = replace(window, limit=window.end, offset=0)
        best: list[tuple[str, float]] = []
        for index in range(slices.total):
            best += await self._call("ranked", self._name, criterion, whole, Slice(slices.total, index))
            best = in_order(best, window.end)
        return window.cut(best)

    @measured
    async def layout(self) -> Layout:
        layout: Layout = await self._call("layout", self._name)
        return layout

    @measured
    async def count(self, condition: Filter | None = None) -> int:
        """Count, one slice of the collection after another if the condition reads too many payloads for one call."""
        count: int | Slices = await self._call("count", self._name, condition)
        if not isinstance(count, Slices):
            return count
        slices = [Slice(count.total, index) for index in range(count.total)]
        return sum([await self._call("count", self._name, condition, part) for part in slices])

    @measured
    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        """Return a page, one stretch of points after another if the condition reads their payloads."""
        ids: list[str] = []
        while True:
            page: Page = await self._call("page", self._name, after, limit - len(ids), condition)
            ids += page.document_ids
            after = page.after
            if after is None or len(ids) >= limit:
                return Page(tuple(ids), after)

    @measured
    async def scroll(
        self, after: str | None, limit: int, condition: Filter | None = None, *, with_vectors: bool = False
    ) -> Stretch:
        points: list[Point] = []
        while True:
            stretch: Stretch = await self._call(
                "scroll", self._name, after, limit - len(points), condition, with_vectors
            )
            points += stretch.points
            after = stretch.after
            if after is None or len(points) >= limit:
                return Stretch(tuple(points), after)

    @property
    def columns(self) -> EdgeColumns:
        return EdgeColumns(self._call, self._name, self.watch)

    @measured
    async def images(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        page: tuple[list[str], str | None] = await self._call("images", self._name, after, limit)
        return page


def _first(points: Sequence[Point]) -> Sequence[Point]:
    """Return the first points, so that they have few more characters of text and values of parts than `CALL_SIZE`."""
    size = 0
    for number, point in enumerate(points, start=1):
        size += len(point.text or "") + (0 if point.part_vectors is None else point.part_vectors.size)
        if size >= CALL_SIZE:
            return points[:number]
    return points


class _Child:
    """The process and its pipe. Used by one thread only."""

    def __init__(
        self,
        folder: Path,
        lock_wait_s: float,
        reads_per_call: int,
        readable_documents: int,
        answer_timeout_s: float,
        settings: EdgeSettings,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._answer_timeout_s = answer_timeout_s
        self._lock_wait_s = lock_wait_s
        self._reads_per_call = reads_per_call
        self._readable_documents = readable_documents
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._output: ChildOutput | None = None

    def ask(self, requests: Sequence[Request]) -> Iterator[Any]:
        """Yield the answer to each request, in their order. Where the child dies, or does not answer in time, those not
        answered yet are asked again one by one, in another child: the one that kills it is to blame alone."""
        answered = 0
        try:
            for answer in self._answers(requests):
                answered += 1
                yield answer
        except StoreTimedOut as error:
            answered += 1
            yield error
        except (EOFError, OSError) as error:
            log.warning(
                "Edge process died, starting another",
                extra={"method": requests[answered][0], "cause": repr(error), **self._obituary()},
            )
        for request in requests[answered:]:
            yield self._repeated(request)

    def _repeated(self, request: Request) -> Any:
        try:
            return next(self._answers([request]))
        except StoreTimedOut as error:
            return error
        except (EOFError, OSError) as error:
            method, obituary = request[0], self._obituary()
            log.error("Edge process died again", extra={"method": method, "cause": repr(error), **obituary})  # noqa: TRY400
            died = StoreDied(f"the Edge process died twice in {method}: {obituary['ending']}")
            died.__cause__ = error
            return died

    def _obituary(self) -> dict[str, str]:
        """Forget a child that died. Return how it ended and the last lines that it wrote."""
        process, output = self._process, self._output
        how = "it was not running" if process is None else ending(process)
        self._end()
        return {"ending": how, "last_words": "" if output is None else output.last_words()}

    def stop(self) -> None:
        """Close the pipe, which tells the child to flush and end."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_TIMEOUT_S)
        self._end()

    def _answers(self, requests: Sequence[Request]) -> Iterator[Any]:
        pipe = self._pipe or self._start()
        pipe.send(requests)
        for method, _ in requests:
            yield self._receive(pipe, COPY_TIMEOUT_S if method in ("copy", "restore") else self._answer_timeout_s)

    def _start(self) -> Connection[Any, Any]:
        """Start the child. Raises `DependencyUnavailable` if it does not start, which is no caller's fault."""
        try:
            pipe = self._pipe = self._spawn()
        except (OSError, RuntimeError) as error:
            self._end()
            reason = getattr(error, "strerror", None) or error
            raise DependencyUnavailable(f"the Edge process cannot start: {reason}") from error
        try:
            greeting = self._receive(pipe, START_TIMEOUT_S + self._lock_wait_s)
        except StoreTimedOut as error:
            raise DependencyUnavailable(f"the Edge process cannot start: {error.detail}") from error
        except (EOFError, OSError) as error:
            obituary = self._obituary()
            log.error("Edge process cannot start", extra={"cause": repr(error), **obituary})  # noqa: TRY400
            last_line = obituary["last_words"].rpartition("\n")[2][:200]
            raise DependencyUnavailable(
                f"the Edge process cannot start: {obituary['ending']}{last_line and f': {last_line}'}"
            ) from error
        if isinstance(greeting, RetrievalError):
            self._end()
            raise greeting
        return pipe

    def _spawn(self) -> Connection[Any, Any]:
        limits = self._reads_per_call, self._readable_documents, json.dumps(asdict(self._settings))
        self._process, pipe = start(
            "indexer.store.edge.process", (self._folder, self._lock_wait_s, *limits), stderr=subprocess.PIPE
        )
        assert self._process.stderr is not None
        self._output = ChildOutput(self._process.stderr, "Qdrant Edge", logged=True)
        return pipe

    def _receive(self, pipe: Connection[Any, Any], timeout_s: float) -> Any:
        if not pipe.poll(timeout_s):
            self._end()
            raise StoreTimedOut(f"the Edge process did not answer in {timeout_s:g} s")
        return pipe.recv()

    def _end(self) -> None:
        """Forget the child, killing it if it still runs."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = self._output = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()
            process.wait()
