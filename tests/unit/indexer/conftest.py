"""Ingestion over fakes that work: a store in memory, an encoder and a web whose trouble a test can switch on, SQLite in a folder."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fake_store import FakeStore
from recorded_qdrant import Qdrant

from indexer.blobs.image_store import Blobs
from indexer.catalog import Catalog
from indexer.domain.collections import Collection
from indexer.domain.documents import Incoming, Rejected
from indexer.domain.jobs import Job
from indexer.encoding.encoder import Lane
from indexer.intake import Intake
from indexer.ledger.ledger import Ledger
from indexer.loops import WakeUps
from indexer.settings import IndexerSettings
from indexer.store.server.client import Client
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from indexer.worker.progress import Progress
from indexer.worker.worker import Worker
from model.errors import EncodeFailed, InvalidInput, NotFound, Overloaded, RetrievalError
from model.passages import Cut, Passages, cut_text
from model.types import Embedding, Float32, Input, ModelInfo, Role

D = 8


def embed(item: Input) -> Float32:
    seed = hashlib.sha256((item.text or "").encode() + b"|" + (item.image or b"")).digest()[:8]
    vector = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(D).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


class FakeEncoder:
    """A text or an image that starts with `bad` is invalid, one that starts with `fails` fails in the forward,
    with `nan` gives NaN, with `poison` raises.

    `gate` closed holds every call; `broken` set is raised by every call; a call of more than `room` inputs is refused;
    `calls` has the texts of each.
    """

    def __init__(self) -> None:
        self.model = ModelInfo("fake", "fingerprint-1", D, 100, 16)
        self.calls: list[list[str | None]] = []
        self.broken: BaseException | None = None
        self.room = 1_000
        self.gate = asyncio.Event()
        self.gate.set()

    async def info(self) -> ModelInfo:
        return self.model

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        assert (role, lane) == (Role.DOCUMENT, Lane.BULK)
        self.calls.append([item.text for item in inputs])
        await self.gate.wait()
        if self.broken:
            raise self.broken
        if len(inputs) > self.room:
            raise Overloaded("the queue is full")
        return [self._one(item) for item in inputs]

    async def passages(self, texts: Sequence[str], cut: Cut) -> list[Passages]:
        """A token is a word."""
        most = min(cut.tokens or self.model.max_text_tokens, self.model.max_text_tokens)
        return [cut_text(text, cut, most, lambda pieces: [len(piece.split()) for piece in pieces]) for text in texts]

    def _one(self, item: Input) -> Embedding | RetrievalError:
        text = item.text or ""
        if text.startswith("poison"):
            raise RuntimeError("nobody foresaw this")
        if text.startswith("bad"):
            return InvalidInput("a bad text")
        if text.startswith("fails"):
            return EncodeFailed("the forward raised")
        if text.startswith("nan"):
            return Embedding(np.full(D, np.nan, np.float32), self.model.fingerprint)
        if (item.image or b"").startswith(b"bad"):
            return InvalidInput("a bad image")
        return Embedding(embed(item), self.model.fingerprint, max(0, len(text.split()) - self.model.max_text_tokens))


class FakeFetcher:
    """`pages` has what each URL answers: bytes or an error."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | RetrievalError] = {}

    async def fetch(self, url: str) -> bytes:
        answer = self.pages.get(url, NotFound(f"{url} answered 404"))
        if isinstance(answer, RetrievalError):
            raise answer
        return answer


@dataclass
class World:
    """Everything between intake and store; every worker started here works on the same."""

    ledger: Ledger
    blobs: Blobs
    settings: IndexerSettings
    store: FakeStore = field(default_factory=FakeStore)
    encoder: FakeEncoder = field(default_factory=FakeEncoder)
    fetcher: FakeFetcher = field(default_factory=FakeFetcher)
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.ledger, self.store, self.encoder)
        self.progress = Progress(self.ledger, self.settings.poll_s)
        self.wakeups = WakeUps()
        self.intake = Intake(self.ledger, self.blobs, self.settings, wakeups=self.wakeups)

    async def start_worker(self) -> Worker:
        worker = Worker(
            self.ledger,
            self.store,
            self.encoder,
            self.blobs,
            self.fetcher,
            self.settings,
            self.progress,
            wakeups=self.wakeups,
        )
        self.workers.append(worker)
        await worker.start()
        return worker

    async def collection(self, name: str = "c") -> Collection:
        return (await self.catalog.create(name))[0]

    async def post(self, *documents: Incoming | Rejected, collection: str = "c", **options: Any) -> Job:
        accepted = await self.intake.accept(await self.collection(collection), stream(documents), **options)
        return accepted.job

    async def done(self, job: Job) -> Job:
        finished = await self.progress.wait(job.id, 20)
        assert finished.state.finished, finished
        return finished

    def stored(self, name: str = "c") -> dict[str, str | None]:
        return {key: point.text for key, point in self.store.kept[name][1].items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  what is waited for is another task's private state
                await asyncio.sleep(0)

    async def until_job(self, job: Job, condition: Callable[[Job], bool]) -> Job:
        async with asyncio.timeout(20):
            while not condition(found := await self.ledger.jobs.find(job.id)):
                pass
            return found


async def stream(documents: Sequence[Incoming | Rejected]) -> AsyncIterator[Incoming | Rejected]:
    for each in documents:
        yield each


def texts(*texts: str) -> list[Incoming]:
    """One document for each text, which is its id too."""
    return [Incoming(position, id=text, text=text) for position, text in enumerate(texts)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
async def make_world(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def make(**settings: Any) -> World:
        quick = {"batch_documents": 4, "retry_base_s": 0.001, "retry_max_s": 0.01, "max_attempts": 3}
        world = World(ledger, Blobs(f"file://{tmp_path / 'blobs'}"), IndexerSettings(**{**quick, **settings}))
        made.append(world)
        return world

    yield make
    for world in made:
        world.encoder.gate.set()
        for worker in world.workers:
            await worker.stop()
        world.blobs.close()


@pytest.fixture
async def world(make_world: Callable[..., World]) -> World:
    """With one worker running."""
    world = make_world()
    await world.start_worker()
    return world


@pytest.fixture
def embedded() -> Callable[..., Float32]:
    """What the fake encoder gives for a text and an image."""
    return lambda text, image=None: embed(Input(text, image))


@pytest.fixture
def posted() -> Callable[..., list[Incoming]]:
    return texts


@pytest.fixture
def qdrant() -> Qdrant:
    return Qdrant()


@pytest.fixture
async def serve(qdrant: Qdrant) -> AsyncIterator[Callable[..., ServerStore]]:
    stores: list[ServerStore] = []

    def make(**options: Any) -> ServerStore:
        settings = ServerStoreSettings("http://qdrant:6333", prefer_grpc=False, **options)
        client = Client(url=settings.url, check_compatibility=False, transport=httpx.MockTransport(qdrant), timeout=3)
        stores.append(ServerStore(settings, client))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()
