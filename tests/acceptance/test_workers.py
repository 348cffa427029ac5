"""Worker processes on one PostgreSQL, some of them killed: the last accepted write of every document wins (promises 3 and 4)."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from file_store import FileStore
from ledger_steps import check_counts
from worker_process import MODEL, D

from indexer.blobs.image_store import Blobs, BlobSettings
from indexer.domain.collections import Collection
from indexer.domain.documents import Incoming
from indexer.domain.jobs import Job, JobKind, JobState
from indexer.intake import Intake
from indexer.ledger.ledger import Ledger
from indexer.settings import IndexerSettings

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
IDS, KILLS = 500, 6


class Workers:
    """`count` of them at any time; one that is killed is followed by another."""

    def __init__(self, count: int, *arguments: str) -> None:
        self._arguments, self._started = arguments, 0
        self._running = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        self._started += 1
        script = str(ROOT / "tests/support/worker_process.py")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, script, *self._arguments, str(self._started)], env=environment)

    def kill_one(self, chance: random.Random) -> None:
        place = chance.randrange(len(self._running))
        self._running[place].kill()
        self._running[place].wait()
        self._running[place] = self._start()

    def ended_early(self) -> bool:
        return any(each.poll() is not None for each in self._running)

    def end(self) -> list[int]:
        for each in self._running:
            each.terminate()
        return [each.wait(60) for each in self._running]

    def let_go_on(self) -> None:
        for each in self._running:
            each.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        for each in self._running:
            each.kill()
            each.wait()


@contextmanager
def workers(count: int, *arguments: str) -> Iterator[Workers]:
    started = Workers(count, *arguments)
    try:
        yield started
    finally:
        started.kill()


async def each(documents: list[Incoming]) -> AsyncIterator[Incoming]:
    for document in documents:
        yield document


@pytest.mark.parametrize(
    ("count", "writes"),
    [(2, 2_000), pytest.param(2, 10_000, marks=pytest.mark.slow), pytest.param(4, 10_000, marks=pytest.mark.slow)],
)
def test_the_last_accepted_write_wins(count: int, writes: int, postgres_url: str, tmp_path: Path) -> None:
    ledger = Ledger.open(postgres_url)
    blobs = Blobs(BlobSettings(f"file://{tmp_path / 'blobs'}"))
    try:
        asyncio.run(_run(ledger, blobs, count, writes, postgres_url, tmp_path))
    finally:
        ledger.close()
        blobs.close()


async def _run(ledger: Ledger, blobs: Blobs, count: int, writes: int, url: str, folder: Path) -> None:
    chance = random.Random(writes + count)
    store = FileStore(folder / "store")
    await store.create("c", D)
    collection = Collection("c", MODEL.fingerprint, MODEL.name, D, time.time())
    ledger.collections.create.blocking(collection)
    intake = Intake(ledger, blobs, IndexerSettings(batch_documents=16))
    expected: dict[str, str | None] = {}
    written, jobs = 0, 0
    with workers(count, url, str(folder / "store"), str(folder / "blobs")) as running:
        kill_at = {int(writes * (n + chance.random()) / KILLS) // 25 for n in range(KILLS)}
        while written < writes:
            ids = [f"d{chance.randrange(IDS)}" for _ in range(chance.randint(1, 49))]
            if chance.random() < 0.25:
                await intake.delete(collection, ids)
                expected |= dict.fromkeys(ids)
            else:
                documents = [Incoming(n, id=key, text=f"{jobs}.{n}") for n, key in enumerate(ids)]
                await intake.accept(collection, each(documents))
                expected |= {one.id: one.text for one in documents if one.id}
            written, jobs = written + len(ids), jobs + 1
            if jobs in kill_at:
                running.kill_one(chance)
        deadline = time.monotonic() + 300
        while left := await ledger.jobs.pending_documents():
            assert time.monotonic() < deadline, f"{left} documents left"
            assert not running.ended_early()
            await asyncio.sleep(0.1)
        assert running.end() == [0] * count
    stored = {key: point.text for key, point in store.kept["c"][1].items()}
    assert stored == {key: text for key, text in expected.items() if text is not None}
    found = ledger.jobs.newest.blocking(limit=10_000)
    assert len(found) == jobs
    assert {job.state for job in found} == {JobState.SUCCEEDED}
    check_counts(ledger, [job.id for job in found[:50]])
    await store.close()


@pytest.mark.parametrize("deletes", [False, True])
def test_a_worker_that_stood_still_before_its_write_undoes_no_later_one(
    deletes: bool, postgres_url: str, tmp_path: Path
) -> None:
    """SIGSTOP between its look at the lease and the write, until another worker has had the batch and written what came after it."""
    ledger = Ledger.open(postgres_url)
    blobs = Blobs(BlobSettings(f"file://{tmp_path / 'blobs'}"))
    try:
        asyncio.run(_stand_still(ledger, blobs, deletes, postgres_url, tmp_path))
    finally:
        ledger.close()
        blobs.close()


async def _stand_still(ledger: Ledger, blobs: Blobs, deletes: bool, url: str, folder: Path) -> None:
    store = FileStore(folder / "store")
    await store.create("c", D)
    collection = Collection("c", MODEL.fingerprint, MODEL.name, D, time.time())
    ledger.collections.create.blocking(collection)
    intake = Intake(ledger, blobs, IndexerSettings())
    (flag := folder / "store.stop").touch()

    def texts() -> dict[str, str | None]:
        return {key: point.text for key, point in store.kept["c"][1].items()}

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not true():  # noqa: ASYNC110  another process
                await asyncio.sleep(0.05)

    async def done(job: Job) -> None:
        await until(lambda: ledger.jobs.find.blocking(job.id).state is JobState.SUCCEEDED)

    def repaired() -> bool:
        return any(
            job.kind is JobKind.REPAIR and job.state is JobState.SUCCEEDED for job in ledger.jobs.newest.blocking()
        )

    arguments = (url, str(folder / "store"), str(folder / "blobs"))
    with workers(1, *arguments) as first:
        old = (await intake.accept(collection, each([Incoming(0, id="a", text="old")]))).job
        await until(lambda: not flag.exists())
        with workers(1, *arguments) as second:
            await done(old)
            if deletes:
                await done(await intake.delete(collection, ["a"]))
            else:
                await done((await intake.accept(collection, each([Incoming(0, id="a", text="new")]))).job)
            expected = {} if deletes else {"a": "new"}
            assert texts() == expected
            first.let_go_on()
            await until(repaired)
            assert texts() == expected
            assert second.end() == first.end() == [0]
    await store.close()
