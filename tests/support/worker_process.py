"""A worker by itself: `python worker_process.py DATABASE_URL STORE_FILE BLOBS_FOLDER SEED [QDRANT_URL GRPC_PORT]` works
until SIGTERM. With a URL its store is that Qdrant server, and STORE_FILE names the flag alone.

Its encoder is made up, and now and then is away; its leases are short, for a test does not wait a minute for a dead worker. While there
is a file STORE_FILE.stop, whoever is about to write removes it and stops there as by SIGSTOP, until SIGCONT.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_store import FakePoints
from file_store import FileStore

from indexer.blobs.image_store import Blobs, BlobSettings
from indexer.domain.points import Point
from indexer.encoding.encoder import Lane
from indexer.ledger.ledger import Ledger
from indexer.settings import IndexerSettings
from indexer.store.server.points import ServerPoints
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from indexer.worker.progress import Progress
from indexer.worker.worker import Worker
from model.errors import DependencyUnavailable, NotFound, RetrievalError
from model.passages import Cut, Passages
from model.types import Embedding, Input, ModelInfo, Role

D = 8
MODEL = ModelInfo("made up", "fingerprint", D, 100, 16)
SETTINGS = IndexerSettings(
    batch_documents=16, lease_s=5.0, poll_s=0.2, retry_base_s=0.01, retry_max_s=0.1, max_attempts=50
)
_AWAY = 0.02  # of all calls


class MadeUpEncoder:
    """A vector for each text, after a moment."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def info(self) -> ModelInfo:
        return MODEL

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        await asyncio.sleep(self._rng.uniform(0, 0.01))
        if self._rng.random() < _AWAY:
            raise DependencyUnavailable("the encoder is away")
        return [Embedding(_vector(item.text or ""), MODEL.fingerprint) for item in inputs]

    async def passages(self, texts: Sequence[str], cut: Cut) -> list[Passages]:
        return [Passages(((0, len(text)),)) for text in texts]


def _vector(text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


class NoFetcher:
    async def fetch(self, url: str) -> bytes:
        raise NotFound(url)


def stop_before_writing(points_of: type[FakePoints] | type[ServerPoints], flag: Path) -> None:
    upsert: Any = points_of.upsert

    def stop() -> None:
        if flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)

    async def stopped(points: Any, given: Sequence[Point]) -> None:
        stop()
        await upsert(points, given)

    points_of.upsert = stopped  # type: ignore[method-assign]


async def main(database_url: str, store: Path, blobs: Path, seed: int, url: str = "", grpc_port: str = "") -> None:
    ledger, rng = Ledger.open(database_url), random.Random(seed)
    server = ServerStore(ServerStoreSettings(url, grpc_port=int(grpc_port))) if url else None
    worker = Worker(
        ledger,
        server or FileStore(store),
        MadeUpEncoder(rng),
        Blobs(BlobSettings(f"file://{blobs}")),
        NoFetcher(),
        SETTINGS,
        Progress(ledger, SETTINGS.poll_s),
        rng=rng,
    )
    stop_before_writing(ServerPoints if server else FakePoints, store.with_suffix(".stop"))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await worker.start()
    await stopped.wait()
    await worker.stop()
    ledger.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
