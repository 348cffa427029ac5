"""Qdrant Edge as a store: the client of the child process (`edge_process`) that owns one data directory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from indexer.domain.documents import point_id
from indexer.domain.points import Hit, Page, Point
from indexer.errors import StoreDied
from indexer.filters import FieldType, Filter
from indexer.store.base import Consistency, Layout
from indexer.store.criteria import Criterion, LateInteraction, Nearest, Ranked
from indexer.store.edge.slices import READS_PER_CALL, Slice, Slices
from indexer.store.edge.snapshot import pack
from indexer.store.ties import in_order
from model.errors import DependencyUnavailable, RetrievalError
from model.types import Float32

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # of a busy machine, over the wait for the lock; 0.2 s is usual
ANSWER_TIMEOUT_S = 120.0  # the longest call is a search behind the vacuum of a large collection
COPY_TIMEOUT_S = 3_600.0  # of a snapshot or a restoration
CLOSE_TIMEOUT_S = 30.0


class EdgeStore:
    """The collections in one folder, each a Qdrant Edge shard. One store per folder; a second is refused.

    Calls go one by one to the child process, in the order made; callers only await. A child that dies is replaced at the
    next call, and the call it died in is repeated once: every one of them is idempotent. Whoever made the store closes it.
    """

    def __init__(self, folder: Path, *, lock_wait_s: float = 10.0, reads_per_call: int = READS_PER_CALL) -> None:
        """`lock_wait_s` is how long a start waits for another process, one that is ending as a rule, to let go of the folder.
        A filter that reads more payloads than `reads_per_call` is asked in slices."""
        self._child = _Child(folder, lock_wait_s, reads_per_call)
        # One thread for the life of the store: the kernel ends the child with the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="edge")
        self._closed = False

    async def create(
        self,
        name: str,
        dimensions: int,
        indexes: Mapping[str, FieldType] | None = None,
        *,
        language: str | None = None,
        latents: bool | None = None,
    ) -> None:
        """Makes what is missing, indexes too, if the collection is there with this layout; `Conflict` if it has another."""
        await self._call("create", name, dimensions, dict(indexes or {}), language, latents)

    async def drop(self, name: str) -> None:
        await self._call("drop", name)

    async def snapshot(self, name: str, file: Path) -> None:
        """The collection as it is now in one file, whole or not at all. Other calls wait while its files are copied, not while
        they are packed: 0.5 s of 10 for 100,000 x 256 on a busy machine."""
        copied = file.with_name(f".copy-{file.name}")
        await self._call("copy", name, copied)
        await asyncio.to_thread(pack, copied, file)

    async def restore(self, name: str, file: Path) -> None:
        """What `snapshot` wrote, under any name; `Conflict` if there is such a collection."""
        await self._call("restore", name, file)

    def points(self, name: str) -> EdgePoints:
        return EdgePoints(self._call, name)

    async def size_bytes(self, name: str) -> int | None:
        size: int = await self._call("size_bytes", name)
        return size

    async def ping(self) -> None:
        await self._call("ping")

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._child.stop)
            self._thread.shutdown(wait=False)

    async def _call(self, method: str, *arguments: Any) -> Any:
        if self._closed:
            raise DependencyUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._child.call, method, arguments)


class EdgePoints:
    """The points of one collection; `NotFound` on use if the collection does not exist."""

    def __init__(self, call: Any, name: str) -> None:
        self._call = call
        self._name = name

    async def upsert(self, points: Sequence[Point]) -> None:
        await self._call("upsert", self._name, list(points))

    async def delete(self, document_ids: Sequence[str]) -> None:
        await self._call("delete", self._name, list(document_ids))

    async def fetch(self, document_ids: Sequence[str], *, with_latents: bool = False) -> list[Point | None]:
        """Vectors come back at length 1, whatever length they had."""
        return await self.read([point_id(each) for each in document_ids], with_latents=with_latents)

    async def read(self, point_ids: Sequence[str], *, with_latents: bool = False) -> list[Point | None]:
        points: list[Point | None] = await self._call("read", self._name, list(point_ids), with_latents)
        return points

    async def search(
        self,
        vector: Float32,  # (D,)
        *,
        limit: int,
        offset: int = 0,
        condition: Filter | None = None,
        score_threshold: float | None = None,
        with_vector: bool = False,
        consistency: Consistency = "one",
        timeout_s: float | None = None,
    ) -> list[Hit]:
        hits: list[Hit] | Slices = await self._call(
            "search", self._name, vector, limit, offset, condition, score_threshold, with_vector
        )
        if isinstance(hits, Slices):
            ranked = await self._merged(hits, Nearest(vector), offset + limit, condition, score_threshold)
            hits = await self._call("hits", self._name, ranked[offset:], with_vector)
        return cast(list[Hit], hits)

    async def rank(
        self,
        by: Criterion,
        *,
        limit: int,
        condition: Filter | None = None,
        consistency: Consistency = "one",
        timeout_s: float | None = None,
    ) -> Ranked:
        ranked: Ranked | Slices = await self._call("rank", self._name, by, limit, condition)
        return await self._merged(ranked, by, limit, condition) if isinstance(ranked, Slices) else ranked

    async def _merged(
        self, of: Slices, by: Criterion, limit: int, condition: Filter | None, score_threshold: float | None = None
    ) -> Ranked:
        """Of one slice after another. Other calls have their turn between them, and a caller who has gone asks for no more."""
        if isinstance(by, LateInteraction):
            near = await self._merged(of, Nearest(by.vector), by.candidates, condition)
            reranked: Ranked = await self._call("rerank", self._name, by, limit, [key for key, _ in near])
            return reranked
        best: list[tuple[str, float]] = []
        for index in range(of.total):
            part = Slice(of.total, index)
            best += await self._call("rank", self._name, by, limit, condition, score_threshold, part)
            best = in_order(best, limit)
        return best

    async def layout(self) -> Layout:
        layout: Layout = await self._call("layout", self._name)
        return layout

    async def count(self) -> int:
        count: int = await self._call("count", self._name)
        return count

    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        """Of one stretch of points after another, where the condition reads their payloads."""
        ids: list[str] = []
        while True:
            page: Page = await self._call("page", self._name, after, limit - len(ids), condition)
            ids += page.document_ids
            after = page.after
            if after is None or len(ids) >= limit:
                return Page(tuple(ids), after)

    async def images(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        page: tuple[list[str], str | None] = await self._call("images", self._name, after, limit)
        return page


class _Child:
    """The process and its pipe. Used by one thread only."""

    def __init__(self, folder: Path, lock_wait_s: float, reads_per_call: int) -> None:
        self._folder = folder
        self._lock_wait_s = lock_wait_s
        self._reads_per_call = reads_per_call
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return self._ask(method, arguments)
        except (EOFError, OSError) as error:
            log.warning(
                "Edge process died, starting another",
                extra={"method": method, "exit_code": self._end(), "cause": repr(error)},
            )
        try:
            return self._ask(method, arguments)
        except (EOFError, OSError) as error:
            raise StoreDied(f"the Edge process died twice in {method}, exit code {self._end()}") from error

    def stop(self) -> None:
        """The closed pipe is the order to flush and end."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_TIMEOUT_S)
        self._end()

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        pipe = self._pipe or self._start()
        pipe.send((method, arguments))
        return self._receive(pipe, COPY_TIMEOUT_S if method in ("copy", "restore") else ANSWER_TIMEOUT_S)

    def _start(self) -> Connection[Any, Any]:
        # A plain command, not multiprocessing: that would import the parent's main module, torch and all.
        ours, theirs = socket.socketpair()
        pipe = Connection(ours.detach())
        with theirs:
            fd = theirs.fileno()
            arguments = (self._folder, fd, os.getpid(), self._lock_wait_s, self._reads_per_call)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexer.store.edge.process", *map(str, arguments)],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path)},
            )
        self._pipe = pipe
        try:
            self._receive(pipe, START_TIMEOUT_S + self._lock_wait_s)
        except RetrievalError:
            self._end()
            raise
        return pipe

    def _receive(self, pipe: Connection[Any, Any], timeout_s: float) -> Any:
        if not pipe.poll(timeout_s):
            self._end()
            raise DependencyUnavailable(f"the Edge process did not answer in {timeout_s:.0f} s")
        answer = pipe.recv()
        if isinstance(answer, RetrievalError):
            raise answer
        return answer

    def _end(self) -> int | None:
        """Forgets the child, killing it if it still runs; its exit code."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is None:
            return None
        process.kill()
        return process.wait()
