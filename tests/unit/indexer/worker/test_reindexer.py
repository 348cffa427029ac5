"""A collection changes its model while it is searched and written to (promise 9): nothing lost, nothing mixed, whatever dies."""

import asyncio
import hashlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_store import FakePoints, FakeStore
from ledger_steps import replace_operation

from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keep, Keeper, KeepSettings
from indexer.catalog import Catalog
from indexer.domain.collections import ReindexState
from indexer.domain.documents import Incoming
from indexer.domain.jobs import Job, JobKind, JobState
from indexer.domain.patches import merged
from indexer.encoding.encoder import Lane
from indexer.encoding.registry import Encoders, ModelState, OneModel, ServedModel
from indexer.errors import WriteUnanswered
from indexer.intake import Intake
from indexer.ledger.ledger import Ledger, take_over
from indexer.loops import WakeUps
from indexer.reindexes import Reindexes
from indexer.settings import IndexerSettings
from indexer.worker import worker as worker_module
from indexer.worker.progress import Progress
from indexer.worker.reindexer import Reindexer
from indexer.worker.worker import Worker
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound, RetrievalError
from model.types import Embedding, Input, ModelInfo, Role

Make = Callable[..., Any]


class Model:
    """Its vectors say which model made them: all entries but the first are 0 or, of the other model, the first is."""

    def __init__(self, name: str, dimensions: int) -> None:
        self.model = ModelInfo(name, f"fingerprint-of-{name}", dimensions, 100, 16)
        self.broken: RetrievalError | None = None
        self.calls: list[str | None] = []
        self.refuses: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def info(self) -> ModelInfo:
        return self.model

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.broken:
            raise self.broken
        self.calls += [each.text for each in inputs]
        return [self._one(each) for each in inputs]

    def _one(self, item: Input) -> Embedding | RetrievalError:
        if item.text in self.refuses:
            return InvalidInput(f"{item.text} is nothing for this model")
        seed = hashlib.sha256((item.text or "").encode() + (item.image or b"")).digest()[:8]
        vector = np.random.default_rng(int.from_bytes(seed, "big")).random(self.model.dimensions).astype(np.float32)
        return Embedding(vector / np.float32(np.linalg.norm(vector)), self.model.fingerprint)


class SlowPoints(FakePoints):
    """Every call gives way to others before and after, so that whatever can come between does."""

    async def _slowly(self, call: Any) -> Any:
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        result = await call()
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        return result

    async def upsert(self, points: Any) -> None:
        await self._slowly(partial(super().upsert, points))

    async def delete(self, document_ids: Any) -> None:
        await self._slowly(partial(super().delete, document_ids))

    async def set_metadata(self, changes: Any) -> None:
        await self._slowly(partial(super().set_metadata, changes))

    async def fetch(self, document_ids: Any, **options: Any) -> Any:
        return await self._slowly(partial(super().fetch, document_ids, **options))


class SlowStore(FakeStore):
    def points(self, name: str) -> FakePoints:
        return SlowPoints(self, name)


@dataclass
class World:
    ledger: Ledger
    blobs: Blobs
    settings: IndexerSettings
    store: SlowStore = field(default_factory=SlowStore)
    old: Model = field(default_factory=lambda: Model("old", 8))
    new: Model = field(default_factory=lambda: Model("new", 12))
    workers: list[Worker] = field(default_factory=list)
    reindexers: list[Reindexer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.encoders = Encoders.of(self.old, self.new)
        self.wakeups = WakeUps()
        self.progress = Progress(self.ledger, 0.01)
        self.catalog = Catalog(self.ledger, self.store, self.encoders)
        self.intake = Intake(self.ledger, self.blobs, self.settings, wakeups=self.wakeups)
        self.reindexes = Reindexes(self.ledger, self.catalog, self.encoders, orders=self.wakeups)

    async def start(self, workers: int = 1) -> None:
        for _ in range(workers):
            fetcher: Any = None
            self.workers.append(
                Worker(
                    self.ledger,
                    self.store,
                    self.encoders,
                    self.blobs,
                    fetcher,
                    self.settings,
                    self.progress,
                    wakeups=self.wakeups,
                )
            )
            await self.workers[-1].start()
        self.reindexers.append(
            Reindexer(
                self.ledger,
                self.store,
                self.encoders,
                self.settings,
                self.progress,
                wakeups=self.wakeups,
                orders=self.wakeups,
            )
        )
        await self.reindexers[-1].start()

    async def stop(self) -> None:
        for each in (*self.workers, *self.reindexers):
            await each.stop()
        self.workers, self.reindexers = [], []

    async def die(self) -> None:
        """As after `kill -9`: nothing is given back, and whatever runs ends where it stands."""
        tasks = [task for worker in self.workers for task in (*worker._loops, *worker._fetching)]
        tasks += [each._task for each in self.reindexers if each._task]
        patch = pytest.MonkeyPatch()
        replace_operation(patch, self.ledger.batches, "release", lambda *_, **__: None)
        for worker in self.workers:
            worker._stopping = True  # a cancelled wait may not hear of it
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        idle = threading.Barrier(
            5
        )  # a real death takes the ledger's four threads along: here they end what they are at
        await asyncio.gather(*(self.ledger.database.run(idle.wait) for _ in range(4)), asyncio.to_thread(idle.wait))
        patch.undo()
        self.workers, self.reindexers = [], []
        take_over(self.ledger.database)

    async def post(self, *documents: Incoming) -> Job:
        async def stream() -> AsyncIterator[Incoming]:
            for each in documents:
                yield each

        return (await self.intake.accept(await self.catalog.get("c"), stream())).job

    async def update(self, *ids: str, **metadata: int | None) -> Job:
        async def stream() -> AsyncIterator[Incoming]:
            for position, key in enumerate(ids):
                yield Incoming(position, id=key, metadata={"metadata": metadata})

        return (await self.intake.accept(await self.catalog.get("c"), stream(), kind=JobKind.UPDATE)).job

    def metadata(self, generation: int) -> dict[str, Any]:
        _, points = self.store.kept[f"c~{generation}" if generation else "c"]
        return {key: point.metadata for key, point in points.items()}

    async def delete(self, *ids: str) -> Job:
        return await self.intake.delete(await self.catalog.get("c"), ids)

    async def done(self, job: Job) -> Job:
        finished = await self.progress.wait(job.id, 30)
        assert finished.state.finished, finished
        return finished

    async def until_state(self, *states: ReindexState | None) -> None:
        async with asyncio.timeout(30):
            while True:
                reindex = await self.ledger.reindexes.find("c")
                if (reindex.state if reindex else None) in states:
                    return
                await asyncio.sleep(0.001)

    async def until_waiting(self, job: Job, on: str) -> None:
        async with asyncio.timeout(30):
            while True:
                if on in ((await self.ledger.jobs.find(job.id)).waiting_on or ""):
                    return
                await asyncio.sleep(0.001)

    async def quiet(self) -> None:
        """Until nothing is left to write or to fill."""
        async with asyncio.timeout(30):
            while True:
                with self.ledger.database.read() as connection:
                    if not connection.exec_driver_sql("SELECT count(*) FROM batches WHERE NOT done").scalar_one():
                        return
                await asyncio.sleep(0.001)

    def contents(self, generation: int) -> dict[str, str | None]:
        """What stands in a generation by id; every vector of it must be of its own model."""
        layout, points = self.store.kept[f"c~{generation}" if generation else "c"]
        dimensions = layout.dimensions
        assert {len(each.vector) for each in points.values()} <= {dimensions}
        return {key: each.text for key, each in points.items()}

    async def serving(self) -> dict[str, str | None]:
        return self.contents((await self.catalog.get("c")).generation)


@pytest.fixture
async def make_world(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[World] = []

    async def make(*, documents: int = 30, workers: int = 1, **settings: Any) -> World:
        quick = {"batch_documents": 4, "retry_base_s": 0.001, "retry_max_s": 0.01, "max_attempts": 3, "poll_s": 0.02}
        world = World(
            ledger,
            Blobs(f"file://{tmp_path / 'blobs'}"),
            IndexerSettings(**{**quick, "reindex_linger_s": 0.0, **settings}),
        )
        made.append(world)
        await world.catalog.create("c")
        await world.start(workers)
        if documents:
            await world.done(await world.post(*numbered(documents)))
        return world

    yield make
    for world in made:
        world.old.gate.set()
        world.new.gate.set()
        await world.stop()
        world.blobs.close()


def numbered(count: int, word: str = "text") -> list[Incoming]:
    return [Incoming(i, id=f"d{i}", text=f"{word} {i}", metadata={"n": i, "x": [1.0, "é"]}) for i in range(count)]


def expected(count: int) -> dict[str, str | None]:
    return {f"d{i}": f"text {i}" for i in range(count)}


async def test_an_update_is_copied_to_the_other_generation_without_its_model(make_world: Make) -> None:
    world = await make_world(documents=10)
    metadata = world.metadata(0)
    await world.reindexes.start("c")
    await world.until_state(ReindexState.KEPT)
    texts = [text for model in (world.old, world.new) for text in model.calls]
    await world.done(await world.update("d1", "d2", price=5))
    await world.quiet()
    assert [text for model in (world.old, world.new) for text in model.calls] == texts
    for generation in (0, 1):
        changed = {key: metadata[key] | {"price": 5} for key in ("d1", "d2")}
        assert world.metadata(generation) == metadata | changed
    assert world.contents(0) == world.contents(1) == expected(10)


# --- the plain way


async def test_the_new_model_serves_and_the_old_generation_is_kept_and_then_goes(make_world: Make) -> None:
    world = await make_world(documents=30)
    job, new = await world.reindexes.start("c")
    assert new
    done = await world.done(job)
    assert (done.state, done.accepted, done.indexed, done.left) == (JobState.SUCCEEDED, 30, 30, 0)
    collection = await world.catalog.get("c")
    assert (collection.model, collection.fingerprint, collection.dimensions) == ("new", "fingerprint-of-new", 12)
    assert not collection.paused
    assert await world.serving() == expected(30) == world.contents(0)
    assert (await world.reindexes.get("c")).state is ReindexState.KEPT
    await world.reindexes.finish("c")
    await world.until_state(None)
    assert list(world.store.kept) == [collection.points_name]
    with pytest.raises(NotFound, match="no other generation"):
        await world.reindexes.get("c")


async def test_after_the_grace_time_the_old_generation_goes_by_itself(make_world: Make) -> None:
    world = await make_world(reindex_grace_s=0.05)
    await world.done((await world.reindexes.start("c"))[0])
    await world.until_state(None)
    assert "c" not in world.store.kept


async def test_an_empty_collection(make_world: Make) -> None:
    world = await make_world(documents=0)
    done = await world.done((await world.reindexes.start("c"))[0])
    assert (done.state, done.accepted) == (JobState.SUCCEEDED, 0)
    assert (await world.catalog.get("c")).model == "new"


async def test_what_is_unchanged_is_skipped_after_the_switch_too(make_world: Make) -> None:
    world = await make_world()
    await world.done((await world.reindexes.start("c"))[0])
    await world.quiet()
    encoded = len(world.new.calls) + len(world.old.calls)
    again = await world.done(await world.post(*numbered(30)))
    assert (again.indexed, again.skipped) == (0, 30)
    assert len(world.new.calls) + len(world.old.calls) == encoded


async def test_there_and_back_to_the_first_model_by_a_second_reindex(make_world: Make) -> None:
    """Each collection by itself: another one stays with its model."""
    world = await make_world()
    await world.catalog.create("other")
    await world.done((await world.reindexes.start("c"))[0])
    await world.reindexes.finish("c")
    await world.until_state(None)
    await world.done((await world.reindexes.start("c", model="old"))[0])
    assert (await world.catalog.get("c")).model == "old"
    assert await world.serving() == expected(30)
    assert (await world.catalog.get("other")).generation == 0
    assert (await world.catalog.create("c"))[1] is False


async def test_a_collection_keeps_the_precisions_that_each_model_filled_it_in(make_world: Make) -> None:
    world = await make_world()
    world.new.model = replace(world.new.model, precision="bfloat16")
    await world.done((await world.reindexes.start("c"))[0])
    world.new.model = replace(world.new.model, precision="float32")
    await world.done(await world.post(*numbered(1, "another text")))
    collection = await world.catalog.get("c")
    old, new = world.old.model.fingerprint, world.new.model.fingerprint
    assert collection.precisions == {old: ("float32",), new: ("bfloat16", "float32")}


async def test_images_are_embedded_again_from_the_blobs(make_world: Make) -> None:
    world = await make_world(documents=0)
    await world.done(
        await world.post(Incoming(0, id="i", image=b"picture"), Incoming(1, id="b", text="t", image=b"p2"))
    )
    before = dict(world.store.kept["c"][1])
    await world.done((await world.reindexes.start("c"))[0])
    after = world.store.kept[(await world.catalog.get("c")).points_name][1]
    assert {key: each.image_digest for key, each in after.items()} == {
        key: each.image_digest for key, each in before.items()
    }
    vector = world.new._one(Input(None, b"picture")).vector
    assert after["i"].vector @ vector == pytest.approx(1.0)


async def test_from_a_thumbnail_and_posted_again_it_is_unchanged(
    make_world: Make, make_image: Callable[..., bytes]
) -> None:
    """The original is gone, yet its hash is known: what was posted before is not embedded once more."""
    world = await make_world(documents=0)
    keeper = Keeper(world.blobs, KeepSettings(Keep.THUMBNAIL, 16))
    attempts = world.workers[0]._attempts
    attempts._runner = replace(attempts._runner, keeper=keeper)
    posted = Incoming(0, id="i", text="t", image=make_image(size=(400, 300)))
    await world.done(await world.post(posted))
    kept = world.store.kept["c"][1]["i"].image_digest
    await world.done((await world.reindexes.start("c"))[0])
    assert world.store.kept[(await world.catalog.get("c")).points_name][1]["i"].image_digest == kept
    assert (await world.done(await world.post(posted))).skipped == 1


async def test_an_alias_means_its_collection(make_world: Make) -> None:
    world = await make_world(documents=2)
    await world.catalog.set_alias("also", "c")
    job, _ = await world.reindexes.start("also")
    assert job.collection == "c"
    await world.done(job)
    assert (await world.reindexes.get("also")).collection == "c"
    await world.reindexes.roll_back("also")


async def test_asked_twice_it_is_the_same_job(make_world: Make) -> None:
    world = await make_world()
    world.new.gate.clear()
    first, _ = await world.reindexes.start("c")
    again, new = await world.reindexes.start("c")
    assert (again.id, new) == (first.id, False)


async def test_no_other_model_runs(make_world: Make) -> None:
    world = await make_world()
    with pytest.raises(Conflict, match="is not served here"):
        await world.reindexes.start("c", model="old")
    with pytest.raises(Conflict, match="--model NAME=SOURCE"):
        await world.reindexes.start("c", model="third")
    with pytest.raises(NotFound):
        await world.reindexes.start("none")


async def test_a_model_that_is_being_loaded_is_no_absent_one(make_world: Make) -> None:
    class Loading(OneModel):
        async def models(self) -> list[ServedModel]:
            return [*await super().models(), ServedModel("next", ModelState.LOADING)]

    world = await make_world()
    reindexes = Reindexes(world.ledger, world.catalog, Encoders((Loading(world.old),)))
    for model in (None, "next"):
        with pytest.raises(DependencyUnavailable, match="model next is still being loaded"):
            await reindexes.start("c", model=model)
    with pytest.raises(Conflict, match="is not served here"):
        await reindexes.start("c", model="third")


# --- writes meanwhile


async def test_writes_do_not_wait_for_the_fill(make_world: Make) -> None:
    world = await make_world()
    world.new.gate.clear()  # the new encoder does not answer at all
    await world.reindexes.start("c")
    assert (await world.done(await world.post(Incoming(0, id="d3", text="changed")))).indexed == 1
    assert (await world.done(await world.delete("d4"))).indexed == 1
    assert (await world.serving())["d3"] == "changed"
    world.new.gate.set()
    await world.until_state(ReindexState.KEPT)
    assert await world.serving() == {**{k: v for k, v in expected(30).items() if k != "d4"}, "d3": "changed"}


async def test_a_new_encoder_that_is_away_holds_up_the_reindex_alone(make_world: Make) -> None:
    world = await make_world()
    world.new.broken = DependencyUnavailable("the new encoder is away")
    job, _ = await world.reindexes.start("c")
    for number in range(3):
        await world.done(await world.post(Incoming(0, id="d0", text=f"version {number}")))
    waiting = await world.ledger.jobs.find(job.id)
    assert (waiting.state, waiting.waiting_on) == (JobState.WAITING, "the new encoder is away")
    world.new.broken = None
    assert (await world.done(job)).state is JobState.SUCCEEDED
    assert (await world.serving())["d0"] == "version 2"


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 20))])
async def test_the_last_accepted_write_wins_in_both_generations(make_world: Make, seed: int) -> None:
    """Writes, deletes, deaths of every process and a rollback, at random moments."""
    rng = random.Random(seed)
    random.seed(seed)
    world = await make_world(documents=25, workers=2, reindex_grace_s=100.0, max_attempts=100)
    wanted = expected(25)
    metadata = world.metadata(0)
    jobs = []
    started = rolled_back = False
    for number in range(40):
        if number == 5:
            await world.reindexes.start("c")
            started = True
        ids = [f"d{rng.randrange(30)}" for _ in range(rng.randrange(1, 6))]
        kind = rng.random()
        if kind < 0.25:
            jobs.append(await world.delete(*ids))
            for each in ids:
                wanted.pop(each, None)
                metadata.pop(each, None)
        elif kind < 0.6:
            changes = {rng.choice("xy"): rng.choice([None, number])}
            jobs.append(await world.update(*ids, **changes))
            metadata |= {each: merged(metadata[each], changes) for each in ids if each in wanted}
        else:
            documents = [Incoming(i, id=each, text=f"{number}.{i}") for i, each in enumerate(ids)]
            jobs.append(await world.post(*documents))
            wanted |= {each.id or "": each.text for each in documents}
            metadata |= {each: {} for each in ids}
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
        if rng.random() < 0.15:
            await world.die()
            await world.start(2)
        if started and not rolled_back and rng.random() < 0.1:
            reindex = await world.ledger.reindexes.find("c")
            if reindex and reindex.state is ReindexState.KEPT:
                await world.reindexes.roll_back("c")
                rolled_back = True
    for job in jobs:
        done = await world.done(job)
        failed = done.failed if done.kind is JobKind.UPDATE else 0
        assert done.accepted == done.indexed + done.skipped + failed
    await world.until_state(None if rolled_back else ReindexState.KEPT)
    await world.quiet()
    assert await world.serving() == wanted
    collection = await world.catalog.get("c")
    assert world.metadata(collection.generation) == metadata
    assert collection.model == ("old" if rolled_back else "new")
    if not rolled_back:
        assert world.contents(0) == wanted
        assert world.metadata(0) == metadata
        await world.reindexes.roll_back("c")
        await world.until_state(None)
        assert await world.serving() == wanted
        assert (await world.catalog.get("c")).model == "old"
    assert list(world.store.kept) == ["c"]


async def test_a_fill_never_undoes_a_write_that_came_between(make_world: Make) -> None:
    """The fill has read the old text, and is embedding it, when the document is changed and another deleted."""
    world = await make_world(documents=2, batch_documents=4)
    reached, go_on = asyncio.Event(), asyncio.Event()
    encode = world.new.encode

    async def held(*args: Any, **options: Any) -> Any:
        if not reached.is_set():
            reached.set()
            await go_on.wait()
        return await encode(*args, **options)

    world.new.encode = held
    await world.reindexes.start("c")
    await asyncio.wait_for(reached.wait(), 10)
    # As another worker does it: in the store, and not yet said to the ledger.
    point = (await world.store.points("c").fetch(["d0"]))[0]
    await world.store.points("c").upsert([replace(point, text="changed", content_hash="other")])
    await world.store.points("c").delete(["d1"])
    go_on.set()
    await world.until_state(ReindexState.KEPT)
    assert await world.serving() == {"d0": "changed"}


async def test_the_switch_waits_for_what_is_being_written(make_world: Make) -> None:
    world = await make_world(documents=4)
    writing, go_on = asyncio.Event(), asyncio.Event()
    upsert = SlowPoints.upsert

    async def held(points: Any, found: Any) -> None:
        if points._name == "c" and any(each.text == "late" for each in found):
            writing.set()
            await go_on.wait()
        await upsert(points, found)

    world.store.points = lambda name: type("Held", (SlowPoints,), {"upsert": held})(world.store, name)
    job = await world.post(Incoming(0, id="d0", text="late"))
    await asyncio.wait_for(writing.wait(), 10)
    reindexing, _ = await world.reindexes.start("c")
    await world.until_state(ReindexState.SWITCHING)
    later = await world.post(Incoming(0, id="d1", text="accepted in the pause"))
    await asyncio.sleep(0.3)
    assert (await world.catalog.get("c")).model == "old"
    go_on.set()
    await world.done(reindexing)
    assert (await world.done(job)).indexed == 1
    assert (await world.done(later)).indexed == 1
    assert await world.serving() == {**expected(4), "d0": "late", "d1": "accepted in the pause"}


async def test_a_switch_that_takes_too_long_is_put_off_and_writes_go_on(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(documents=4, max_pause_s=1.0)
    await world.reindexes.start("c")
    replace_operation(monkeypatch, world.ledger.reindexes, "writes_are_open", lambda _: True)
    await world.until_state(ReindexState.SWITCHING)
    job = await world.post(Incoming(0, id="d0", text="changed"))
    assert (await world.done(job)).indexed == 1
    monkeypatch.undo()
    await world.until_state(ReindexState.KEPT)
    assert (await world.serving())["d0"] == "changed"


async def test_the_switch_waits_for_a_write_that_the_store_may_carry_out_late(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cluster did not answer is copied once more when it is too old to be carried out, and then the switch
    comes."""
    world = await make_world(documents=3)
    monkeypatch.setattr(FakeStore, "writes_late", True)
    upsert, sent = SlowPoints.upsert, []

    async def unanswered(points: Any, written: Any) -> None:
        if points._name != "c" and not sent:
            sent.append((points, list(written)))
            raise WriteUnanswered("no answer")
        await upsert(points, written)

    monkeypatch.setattr(SlowPoints, "upsert", unanswered)
    job, _ = await world.reindexes.start("c")
    await world.until_waiting(job, "writes that the store did not answer")
    await world.done(await world.post(Incoming(0, id="d0", text="changed")))
    await world.quiet()
    await upsert(*sent[0])
    assert world.contents(1) == expected(3)
    assert (await world.catalog.get("c")).model == "old"
    monkeypatch.setattr(worker_module, "LATE_WRITE_S", 0.0)
    await world.workers[0]._tidy()
    await world.done(job)
    assert await world.serving() == {**expected(3), "d0": "changed"}


async def test_a_late_write_of_a_reindex_is_repaired_where_the_copy_that_is_read_is_right(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(documents=3)
    monkeypatch.setattr(FakeStore, "writes_late", True)
    upsert, calls = SlowPoints.upsert, []

    async def unanswered(points: Any, written: Any) -> None:
        await upsert(points, written)
        if points._name != "c":
            calls.append(sorted(point.document_id for point in written))
            if len(calls) == 1:
                raise WriteUnanswered("no answer")

    monkeypatch.setattr(SlowPoints, "upsert", unanswered)
    job, _ = await world.reindexes.start("c")
    await world.until_waiting(job, "writes that the store did not answer")
    monkeypatch.setattr(worker_module, "LATE_WRITE_S", 0.0)
    await world.workers[0]._tidy()
    await world.done(job)
    assert calls == [["d0", "d1", "d2"]] * 2


# --- giving up


@pytest.mark.parametrize("by", ["order", "job"])
async def test_cancelled_before_the_switch(make_world: Make, by: str) -> None:
    world = await make_world()
    world.new.gate.clear()
    job, _ = await world.reindexes.start("c")
    if by == "order":
        await world.reindexes.cancel("c")
    else:
        await world.ledger.jobs.cancel(job.id)
    world.new.gate.set()
    done = await world.done(job)
    assert done.state is JobState.CANCELLED
    assert (done.accepted, done.left) == (30, 0)
    await world.until_state(None)
    assert list(world.store.kept) == ["c"]
    assert (await world.catalog.get("c")).model == "old"
    assert (await world.done(await world.post(Incoming(0, id="d0", text="after")))).indexed == 1
    done = await world.done((await world.reindexes.start("c"))[0])
    assert (done.state, (await world.serving())["d0"]) == (JobState.SUCCEEDED, "after")


async def test_too_late_and_too_early(make_world: Make) -> None:
    world = await make_world()
    world.new.gate.clear()
    await world.reindexes.start("c")
    with pytest.raises(Conflict, match="filling"):
        await world.reindexes.roll_back("c")
    with pytest.raises(Conflict, match="filling"):
        await world.reindexes.finish("c")
    world.new.gate.set()
    await world.until_state(ReindexState.KEPT)
    with pytest.raises(Conflict, match="kept"):
        await world.reindexes.cancel("c")
    with pytest.raises(Conflict, match="kept"):
        await world.reindexes.start("c")
    world.reindexes._encoders = Encoders.of(world.new)
    with pytest.raises(Conflict, match="is not served any more"):
        await world.reindexes.roll_back("c")


async def test_a_collection_dropped_meanwhile_leaves_nothing(make_world: Make) -> None:
    world = await make_world()
    world.new.gate.clear()
    await world.reindexes.start("c")
    await world.catalog.drop("c")
    world.new.gate.set()
    await world.until_state(None)
    await asyncio.sleep(0.1)
    assert world.store.kept == {}
    assert all(each.alive for each in (*world.workers, *world.reindexers))


async def test_a_rollback_after_writes_loses_none(make_world: Make) -> None:
    world = await make_world()
    await world.done((await world.reindexes.start("c"))[0])
    world.old.gate.clear()  # the old encoder is slow: the write itself does not wait for it
    assert (await world.done(await world.post(Incoming(0, id="d0", text="since the switch")))).indexed == 1
    await world.done(await world.delete("d1"))
    await world.reindexes.roll_back("c")
    await asyncio.sleep(0.2)
    assert (await world.catalog.get("c")).model == "new"
    world.old.gate.set()
    await world.until_state(None)
    assert (await world.catalog.get("c")).model == "old"
    assert await world.serving() == {**{k: v for k, v in expected(30).items() if k != "d1"}, "d0": "since the switch"}


async def test_a_rollback_that_takes_too_long_is_put_off_and_comes_all_the_same(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(documents=4, reindex_grace_s=100.0, max_pause_s=1.0)
    await world.done((await world.reindexes.start("c"))[0])
    replace_operation(monkeypatch, world.ledger.reindexes, "writes_are_open", lambda _: True)
    await world.reindexes.roll_back("c")
    job = await world.post(Incoming(0, id="d0", text="changed"))
    assert (await world.done(job)).indexed == 1
    monkeypatch.undo()
    await world.until_state(None)
    assert (await world.catalog.get("c")).model == "old"
    assert (await world.serving())["d0"] == "changed"


# --- what the new model cannot embed


async def test_failures_hold_up_the_switch_until_somebody_says_so(make_world: Make) -> None:
    world = await make_world(documents=6)
    world.new.refuses = {"text 2", "text 5"}
    job, _ = await world.reindexes.start("c")
    await world.until_waiting(job, "limit is 0")
    assert (await world.catalog.get("c")).model == "old"
    failures = await world.ledger.jobs.failures(job.id)
    assert {each.document_id for each in failures} == {"d2", "d5"}
    world.new.refuses = {"text 5"}  # one is mended, the other allowed
    again, new = await world.reindexes.start("c", max_failures=1)
    assert (again.id, new) == (job.id, False)
    done = await world.done(job)
    assert done.state is JobState.SUCCEEDED_WITH_FAILURES
    assert done.left == 0
    assert await world.serving() == {key: text for key, text in expected(6).items() if key != "d5"}


async def test_a_failed_document_that_is_written_again_is_mended(make_world: Make) -> None:
    world = await make_world(documents=4)
    world.new.refuses = {"text 2"}
    job, _ = await world.reindexes.start("c")
    await world.until_waiting(job, "limit is 0")
    await world.done(await world.post(Incoming(0, id="d2", text="better")))
    await world.done(job)
    assert await world.serving() == {**expected(4), "d2": "better"}


async def test_generations_that_stay_unequal_end_it(make_world: Make) -> None:
    """A store that swallows a document: counted, looked at again, and then refused."""
    world = await make_world(documents=6)
    upsert = SlowPoints.upsert

    async def swallowing(points: Any, found: Any) -> None:
        await upsert(points, [each for each in found if points._name == "c" or each.document_id != "d3"])

    world.store.points = lambda name: type("Bad", (SlowPoints,), {"upsert": swallowing})(world.store, name)
    job, _ = await world.reindexes.start("c")
    done = await world.done(job)
    assert done.state is JobState.FAILED
    assert "of 6, after 3 scans" in (done.waiting_on or "")
    assert done.left == 0
    await world.until_state(None)
    assert list(world.store.kept) == ["c"]
    assert (await world.done(await world.post(Incoming(0, id="d0", text="after")))).indexed == 1


# --- the ledger


async def test_finished_jobs_are_forgotten_but_not_while_their_generation_is_kept(make_world: Make) -> None:
    world = await make_world()
    job = await world.done((await world.reindexes.start("c"))[0])
    await world.stop()
    world.ledger.database._clock = lambda: time.time() + 30 * 86400.0
    while await world.ledger.housekeeping.tidy(86400.0):
        pass
    assert [each.id for each in world.ledger.jobs.newest.blocking()] == [job.id]


async def test_a_reindex_is_not_retried_as_a_job(make_world: Make) -> None:
    world = await make_world()
    job = await world.done((await world.reindexes.start("c"))[0])
    with pytest.raises(Conflict, match="is a reindex"):
        world.ledger.retries.start.blocking(job.id)
