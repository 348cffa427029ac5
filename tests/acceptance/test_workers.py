"""Worker processes on one PostgreSQL, some of them killed: the last accepted write of every document wins (promises 3 and 4)."""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from file_store import FileStore
from ledger_steps import check_counts
from worker_process import MODEL, D

from indexer.blobs import Blobs, BlobSettings
from indexer.intake import Incoming, Intake
from indexer.ledger import Ledger
from indexer.records import Collection, JobState
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
        script = str(ROOT / "tests/worker_process.py")
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
    ledger = Ledger(postgres_url)
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
    ledger.create_collection(collection)
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
        while left := await ledger.call(ledger.pending_documents):
            assert time.monotonic() < deadline, f"{left} documents left"
            assert not running.ended_early()
            await asyncio.sleep(0.1)
        assert running.end() == [0] * count
    stored = {key: point.text for key, point in store.kept["c"][1].items()}
    assert stored == {key: text for key, text in expected.items() if text is not None}
    found = ledger.jobs(limit=10_000)
    assert len(found) == jobs
    assert {job.state for job in found} == {JobState.SUCCEEDED}
    check_counts(ledger, [job.id for job in found[:50]])
    await store.close()
