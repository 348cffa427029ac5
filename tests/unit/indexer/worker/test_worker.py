"""The worker's must-pass list: nothing lost, nothing doubled, a bad document harms only itself, what is away is waited for."""

import asyncio
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_store import FakePoints, FakeStore
from ledger_steps import pages, replace_operation

from indexer.domain.documents import Incoming
from indexer.domain.jobs import JobKind, JobState, Status
from indexer.domain.patches import merged
from indexer.domain.points import Point
from indexer.encoding.encoder import Lane
from indexer.encoding.registry import Encoders
from indexer.errors import EncoderDied, EncoderTimedOut, StoreDied, StoreTimedOut, WriteUnanswered
from indexer.worker import runner, worker
from indexer.worker.worker import Worker
from model.errors import DependencyUnavailable, EncodeFailed, Forbidden, Overloaded, RateLimited
from model.types import Input, Role

Make = Callable[..., Any]


def counts(job: Any) -> tuple[int, int, int, int]:
    return job.accepted, job.indexed, job.skipped, job.failed


async def failures(world: Any, job: Any) -> dict[str, str]:
    found = await world.ledger.jobs.failures(job.id)
    return {each.document_id: each.code for each in found}


# --- the plain way


async def test_documents_of_text_and_images_get_in(world: Any) -> None:
    world.fetcher.pages["https://host/a.png"] = b"fetched"
    job = await world.post(
        Incoming(0, id="text", text="words", metadata={"a": [1, "é"]}),
        Incoming(1, id="image", image=b"bytes"),
        Incoming(2, id="url", text="both", image_url="https://host/a.png"),
        Incoming(3, text="no id"),
        Incoming(4, id="fifth", text="second batch"),
    )
    done = await world.done(job)
    assert (done.state, counts(done)) == (JobState.SUCCEEDED, (5, 5, 0, 0))
    points: dict[str, Point] = world.store.kept["c"][1]
    assert len(points) == 5
    assert points["text"].metadata == {"a": [1, "é"]}
    assert await world.blobs.get(points["image"].image_digest) == b"bytes"
    assert await world.blobs.get(points["url"].image_digest) == b"fetched"
    assert world.ledger.jobs.pending_documents.blocking() == 0


async def test_the_same_again_is_skipped_and_a_change_is_not(world: Any, posted: Make) -> None:
    await world.done(await world.post(*posted("a", "b"), Incoming(2, id="i", image=b"1")))
    encoded = len(world.encoder.calls)
    again = await world.done(await world.post(*posted("a", "b"), Incoming(2, id="i", image=b"1")))
    assert counts(again) == (3, 0, 3, 0)
    assert len(world.encoder.calls) == encoded
    for change in (
        Incoming(0, id="a", text="other"),
        Incoming(0, id="a", text="other", metadata={"x": 1}),
        Incoming(0, id="i", image=b"2"),
    ):
        assert counts(await world.done(await world.post(change))) == (1, 1, 0, 0)


async def test_deleting(world: Any, posted: Make) -> None:
    await world.done(await world.post(*posted("a", "b", "c")))
    job = await world.intake.delete(await world.collection(), ["a", "never was", "c"])
    assert counts(await world.done(job)) == (3, 3, 0, 0)
    assert world.stored() == {"b": "b"}


async def test_results_by_position(world: Any, posted: Make) -> None:
    await world.done(await world.post(*posted("old")))
    job = await world.post(*posted("bad", "old", "new", "new", "x"))
    done = await world.done(job)
    assert (done.state, counts(done)) == (JobState.SUCCEEDED_WITH_FAILURES, (5, 2, 2, 1))
    (results,) = pages(world.ledger, job.id)
    assert [(each.position, each.document_id, each.status, each.code) for each in results] == [
        (0, "bad", Status.FAILED, "invalid_input"),
        (1, "old", Status.SKIPPED, None),
        (2, "new", Status.SKIPPED, None),  # the last of an id counts
        (3, "new", Status.INDEXED, None),
        (4, "x", Status.INDEXED, None),
    ]


# --- a bad document harms only itself


async def test_each_kind_of_bad_document_fails_alone(world: Any) -> None:
    world.fetcher.pages["https://private/"] = Forbidden("not public")
    job = await world.post(
        Incoming(0, id="good", text="good"),
        Incoming(1, id="invalid", text="bad"),
        Incoming(2, id="forward", text="fails"),
        Incoming(3, id="nan", text="nan"),
        Incoming(4, id="private", image_url="https://private/"),
        Incoming(5, id="gone", image_url="https://host/404"),
        Incoming(6, id="unstorable", text="x", metadata={"unstorable": True}),
        Incoming(7, id="good too", text="y"),
    )
    done = await world.done(job)
    assert counts(done) == (8, 2, 0, 6)
    assert await failures(world, job) == {
        "invalid": "invalid_input",
        "forward": "encode_failed",
        "nan": "encode_failed",
        "private": "forbidden",
        "gone": "not_found",
        "unstorable": "invalid_input",
    }
    assert set(world.stored()) == {"good", "good too"}
    assert len(world.encoder.calls) == 2, "each batch once: no attempt was counted"


async def test_a_lost_image_file_fails_its_document_only(make_world: Make, tmp_path: Any) -> None:
    world = make_world(retry_base_s=60.0, retry_max_s=60.0)
    job = await world.post(Incoming(0, id="lost", image=b"lost"), Incoming(1, id="kept", image=b"kept"))
    digest = (await world.blobs.put(b"lost"))[:64]
    (tmp_path / "blobs" / digest[:2] / digest[2:4] / digest).unlink()
    await world.start_worker()
    assert counts(await world.done(job)) == (2, 1, 0, 1)
    assert await failures(world, job) == {"lost": "not_found"}
    assert len(world.encoder.calls) == 1


async def test_poison_is_dead_after_n_attempts_and_takes_nobody_along(world: Any, posted: Make) -> None:
    job = await world.post(*posted("a", "poison", "b", "c", "d"))
    done = await world.done(job)
    assert (done.state, counts(done)) == (JobState.SUCCEEDED_WITH_FAILURES, (5, 4, 0, 1))
    assert await failures(world, job) == {"poison": "internal"}
    assert sum("poison" in call for call in world.encoder.calls) == world.settings.max_attempts
    assert world.workers[0].alive


async def test_a_model_that_fails_on_everything_is_tried_again(world: Any, posted: Make) -> None:
    real = world.encoder.encode
    tries = 0

    async def encode(inputs: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        return [EncodeFailed("out of memory") for _ in inputs] if tries == 1 else await real(inputs, **options)

    world.encoder.encode = encode
    assert counts(await world.done(await world.post(*posted("a", "b")))) == (2, 2, 0, 0)


async def test_a_url_whose_host_is_down_is_tried_n_times_and_the_others_do_not_wait(world: Any) -> None:
    world.fetcher.pages |= {"https://down/": DependencyUnavailable("down"), "https://up/": b"image"}
    job = await world.post(
        Incoming(0, id="down", image_url="https://down/"), Incoming(1, id="up", image_url="https://up/")
    )
    done = await world.done(job)
    assert counts(done) == (2, 1, 0, 1)
    assert await failures(world, job) == {"down": "dependency_unavailable"}
    assert world.store.upserts == [["up"]]


async def test_a_url_whose_host_comes_back(make_world: Make) -> None:
    world = make_world(max_attempts=1_000)
    await world.start_worker()
    world.fetcher.pages["https://host/"] = DependencyUnavailable("down")
    job = await world.post(Incoming(0, id="a", image_url="https://host/"))
    waiting = await world.until_job(job, lambda found: found.state is JobState.WAITING)
    assert waiting.waiting_on == "down"
    world.fetcher.pages["https://host/"] = b"image"
    assert counts(await world.done(job)) == (1, 1, 0, 0)


# --- what is away is waited for


@pytest.mark.parametrize("error", [DependencyUnavailable("encoder is away"), Overloaded("full", retry_after_s=0.001)])
async def test_an_encoder_that_is_away_is_waited_for(world: Any, posted: Make, error: Exception) -> None:
    world.encoder.broken = error
    job = await world.post(*posted("a", "b", "c", "d", "e"))
    waiting = await world.until_job(job, lambda found: found.state is JobState.WAITING)
    assert waiting.waiting_on in ("encoder is away", "full")
    # Many more times than documents are allowed to fail.
    await world.until(lambda: len(world.encoder.calls) > 4 * world.settings.max_attempts)
    world.encoder.broken = None
    done = await world.done(job)
    assert (done.state, counts(done), done.waiting_on) == (JobState.SUCCEEDED, (5, 5, 0, 0), None)


async def test_a_batch_for_which_the_encoder_has_no_room_goes_in_parts(world: Any, posted: Make) -> None:
    world.encoder.room = 2
    job = await world.post(*posted("a", "b", "c", "d"))
    assert counts(await world.done(job)) == (4, 4, 0, 0)
    assert [len(texts) for texts in world.encoder.calls] == [4, 2, 2]


async def test_a_batch_of_a_caller_at_its_own_limit_stays_whole(world: Any, posted: Make) -> None:
    world.encoder.broken = RateLimited("too many requests", retry_after_s=0.001)
    job = await world.post(*posted("a", "b", "c"))
    await world.until(lambda: len(world.encoder.calls) > 3)
    assert {len(texts) for texts in world.encoder.calls} == {3}
    world.encoder.broken = None
    assert counts(await world.done(job)) == (3, 3, 0, 0)


async def test_a_store_that_is_away_is_waited_for(world: Any, posted: Make) -> None:
    await world.collection()
    world.catalog.create = lambda name: asyncio.sleep(0, (world.ledger.collections.find.blocking(name), False))
    world.store.broken = DependencyUnavailable("store is away")
    job = await world.post(*posted("a"))
    await world.until_job(job, lambda found: found.waiting_on == "store is away")
    world.store.broken = None
    assert counts(await world.done(job)) == (1, 1, 0, 0)


class Unanswered:
    """The first write of points has no answer. It is `carried_out` at once, or when a test says so; others are as usual."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, carried_out: bool) -> None:
        self._upsert, self._carried_out = FakePoints.upsert, carried_out
        self.writes: list[tuple[FakePoints, list[Point]]] = []
        monkeypatch.setattr(worker, "LATE_WRITE_S", 0.0)
        monkeypatch.setattr(FakeStore, "writes_late", True)
        monkeypatch.setattr(FakePoints, "upsert", lambda points, written: self._write(points, written))

    async def _write(self, points: FakePoints, written: Any) -> None:
        first = not self.writes
        self.writes.append((points, list(written)))
        if self._carried_out or not first:
            await self._upsert(points, written)
        if first:
            raise WriteUnanswered("no answer")

    async def carry_out(self) -> None:
        await self._upsert(*self.writes[0])


async def test_a_write_that_the_store_carries_out_late_is_undone(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had no answer, was repeated, and arrives after what was written later; the store's copies all have it then."""
    await world.collection()
    late = Unanswered(monkeypatch, carried_out=False)
    await world.done(await world.post(Incoming(0, id="a", text="old"), Incoming(1, id="b", text="gone")))
    await world.done(await world.post(Incoming(0, id="a", text="new")))
    await world.done(await world.intake.delete(await world.collection(), ["b"]))
    await late.carry_out()
    assert world.stored() == {"a": "old", "b": "gone"}
    await world.workers[0]._tidy()
    await world.until(lambda: world.stored() == {"a": "new"})


async def test_a_repair_writes_what_the_copy_that_was_read_has_already(
    world: Any, posted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.collection()
    late = Unanswered(monkeypatch, carried_out=True)
    assert counts(await world.done(await world.post(*posted("a")))) == (1, 0, 1, 0)
    await world.workers[0]._tidy()
    await world.until(lambda: len(late.writes) == 2)


async def test_while_something_is_away_the_queue_is_not_run_through(make_world: Make, posted: Make) -> None:
    world = make_world(batch_documents=1, retry_base_s=30.0, retry_max_s=60.0, concurrency=2)
    world.encoder.broken = DependencyUnavailable("away")
    await world.start_worker()
    job = await world.post(*posted(*"abcdefghij"))
    await world.until_job(job, lambda found: found.state is JobState.WAITING)
    for _ in range(5):
        await world.post(*posted("more"))
    assert len(world.encoder.calls) <= 2


async def test_another_model_writes_nothing_and_holds_up_no_other_collection(make_world: Make, posted: Make) -> None:
    world = make_world(retry_base_s=60.0, retry_max_s=60.0)
    await world.start_worker()
    await world.collection("old")
    old = await world.ledger.collections.find("old")
    right, world.encoder.model = world.encoder.model, type(world.encoder.model)("new", "fingerprint-2", 8, 100, 16)
    accepted = await world.intake.accept(old, one_by_one(posted("a")))
    waiting = await world.until_job(accepted.job, lambda found: found.state is JobState.WAITING)
    assert "fingerprint-" in (waiting.waiting_on or "")
    assert counts(await world.done(await world.post(*posted("b"), collection="new"))) == (1, 1, 0, 0)
    assert world.stored("old") == {}
    world.encoder.model = right
    world.ledger.database._clock = lambda: time.time() + 61
    world.wakeups.work_arrived()
    assert counts(await world.done(accepted.job)) == (1, 1, 0, 0)


async def test_a_backlog_of_another_model_is_not_run_through(
    make_world: Make, posted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batches are the oldest: were each of them claimed to wait for itself, they would take every other one's turn."""
    world = make_world(batch_documents=1, retry_base_s=30.0, retry_max_s=60.0, concurrency=2)
    await world.collection("old")
    backlog = await world.post(*posted(*(str(i) for i in range(50))), collection="old")
    world.encoder.model = type(world.encoder.model)("new", "fingerprint-2", 8, 100, 16)
    released: list[Any] = []
    release = world.ledger.batches.release.blocking

    def release_and_note(batches: Any, **options: Any) -> None:
        released.append(batches)
        release(batches, **options)

    replace_operation(monkeypatch, world.ledger.batches, "release", release_and_note)
    await world.start_worker()
    assert counts(await world.done(await world.post(*posted("b"), collection="new"))) == (1, 1, 0, 0)
    assert len(released) <= 2
    assert (await world.ledger.jobs.find(backlog.id)).state is JobState.WAITING


async def one_by_one(documents: Any) -> Any:
    for each in documents:
        yield each


async def test_files_of_a_collection_that_are_gone_are_waited_for(make_world: Make, posted: Make) -> None:
    world = make_world()
    job = await world.post(*posted("a"))
    kept = world.store.kept.pop("c")
    await world.start_worker()
    await world.until_job(job, lambda found: found.state is JobState.WAITING)
    world.store.kept["c"] = kept
    assert counts(await world.done(job)) == (1, 1, 0, 0)


# --- life and death


async def test_a_write_under_which_the_worker_was_stopped_is_undone(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store carries it out after what another worker wrote."""
    monkeypatch.setattr(FakeStore, "writes_late", True)
    monkeypatch.setattr(worker, "LATE_WRITE_S", 0.0)
    await world.collection()
    upsert, held = FakePoints.upsert, []

    async def hold(points: FakePoints, written: Any) -> None:
        held.append((points, list(written)))
        await asyncio.Event().wait()

    with monkeypatch.context() as held_up:
        held_up.setattr(FakePoints, "upsert", hold)
        job = await world.post(Incoming(0, id="a", text="old"))
        await world.until(lambda: len(held) == 1)
        await world.workers[0].stop(timeout_s=0)
    await world.start_worker()
    await world.done(job)
    await world.done(await world.post(Incoming(0, id="a", text="new")))
    await upsert(*held[0])
    assert world.stored() == {"a": "old"}
    await world.workers[-1]._tidy()
    await world.until(lambda: world.stored() == {"a": "new"})


async def test_a_crash_between_upsert_and_finish_repeats_harmlessly(
    world: Any, posted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, crashed = world.ledger.batches.finish.blocking, False

    def finish(*args: Any, **options: Any) -> Any:
        nonlocal crashed
        if not crashed:
            crashed = True
            raise RuntimeError("as if the process had died here")
        return real(*args, **options)

    replace_operation(monkeypatch, world.ledger.batches, "finish", finish)
    done = await world.done(await world.post(*posted("a", "b")))
    assert (done.accepted, done.indexed + done.skipped, done.failed) == (2, 2, 0)
    assert world.stored() == {"a": "a", "b": "b"}
    assert world.store.upserts == [["a", "b"]]


async def test_stop_waits_for_what_is_in_flight(world: Any, posted: Make) -> None:
    world.encoder.gate.clear()
    job = await world.post(*posted("a"))
    await world.until(lambda: len(world.encoder.calls) == 1)
    stopping = asyncio.create_task(world.workers[0].stop())
    await asyncio.sleep(0)
    world.encoder.gate.set()
    await stopping
    assert world.ledger.jobs.find.blocking(job.id).indexed == 1
    assert not world.workers[0].alive


async def test_stop_gives_back_what_does_not_end(world: Any, posted: Make) -> None:
    world.encoder.gate.clear()
    job = await world.post(*posted("a"))
    await world.until(lambda: len(world.encoder.calls) == 1)
    await world.workers[0].stop(timeout_s=0)
    assert world.stored() == {}
    world.encoder.gate.set()
    await world.start_worker()
    done = await world.progress.wait(job.id, 20)
    assert counts(done) == (1, 1, 0, 0)
    (batch,) = world.ledger.database._engine.connect().exec_driver_sql("SELECT attempts FROM batches").all()
    assert batch.attempts == 1  # the one that worked


class Killed(BaseException):
    """As if the process had ended there: nothing catches it, and nothing is given back."""


def killer(world: Any) -> None:
    real = world.encoder.encode

    async def encode(inputs: Any, **options: Any) -> Any:
        if any(item.text == "kills" for item in inputs):
            raise Killed
        return await real(inputs, **options)

    world.encoder.encode = encode


async def lives_until(world: Any, *jobs: Any) -> int:
    """Starts a worker again each time one dies and its leases have run out, until the jobs are done; how many died."""
    died = 0
    find = world.ledger.jobs.find.blocking
    while True:
        worker = await world.start_worker()

        def is_over(worker: Any = worker) -> bool:
            return not worker.alive or all(find(job.id).state.finished for job in jobs)

        await world.until(is_over)
        done = worker.alive
        await worker.stop()
        if done:
            return died
        died += 1
        late = died * (world.settings.lease_s + 1)
        world.ledger.database._clock = lambda late=late: time.time() + late


async def test_a_document_that_kills_the_worker_is_found_and_fails_alone(make_world: Make, posted: Make) -> None:
    world = make_world(batch_documents=3, concurrency=1)
    killer(world)
    job = await world.post(*posted("a", "kills", "b", "c"))
    assert await lives_until(world, job) == world.settings.max_attempts
    assert counts(world.ledger.jobs.find.blocking(job.id)) == (4, 3, 0, 1)
    assert await failures(world, job) == {"kills": "worker_died"}
    assert set(world.stored()) == {"a", "b", "c"}


async def test_what_was_in_flight_beside_it_is_not_blamed(make_world: Make, posted: Make) -> None:
    world = make_world(batch_documents=1, concurrency=2)
    killer(world)
    jobs = [await world.post(*posted(text)) for text in ("a", "kills", "b")]
    assert await lives_until(world, *jobs) <= world.settings.max_attempts + 1
    assert [world.ledger.jobs.find.blocking(job.id).state for job in jobs] == [
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.SUCCEEDED,
    ]


class Dies:
    """An encoder, or the points of a store, of which each call with the document `kills` ends as when its process dies."""

    def __init__(self, error: Exception, call: Any) -> None:
        self.error, self.call, self.deaths = error, call, 0

    async def __call__(self, given: Any, *args: Any, **options: Any) -> Any:
        if any(one.text == "kills" for one in given):
            self.deaths += 1
            raise self.error
        return await self.call(given, *args, **options)


@pytest.mark.parametrize(
    "error", [EncoderDied("gone"), EncoderTimedOut("slow"), StoreDied("gone"), StoreTimedOut("slow")]
)
async def test_a_document_that_kills_encoder_or_store_fails_alone(
    make_world: Make, posted: Make, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(batch_documents=3, concurrency=2, max_attempts=4)
    if not isinstance(error, StoreDied):
        killer = world.encoder.encode = Dies(error, world.encoder.encode)
    else:
        killer = Dies(error, None)
        upsert = FakePoints.upsert

        async def dies(points: Any, given: Any) -> None:
            killer.call = lambda _: upsert(points, given)
            await killer(given)

        monkeypatch.setattr(FakePoints, "upsert", dies)
    job = await world.post(*posted("a", "kills", "b", "c"))
    other = await world.post(*posted("d"))
    await world.start_worker()
    assert counts(await world.done(job)) == (4, 3, 0, 1)
    assert counts(await world.done(other)) == (1, 1, 0, 0)
    assert await failures(world, job) == {"kills": error.failure}
    assert killer.deaths == (3 if isinstance(error, StoreTimedOut) else world.settings.max_attempts)
    assert set(world.stored()) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("error", [EncoderDied("gone"), EncoderTimedOut("slow")])
async def test_an_encoder_that_dies_of_everything_is_an_outage(make_world: Make, posted: Make, error: Any) -> None:
    world = make_world(batch_documents=3, concurrency=2)
    world.encoder.broken = error
    await world.start_worker()
    jobs = [await world.post(*posted("a", "b", "c", "d")), await world.post(*posted("e"))]
    await world.until(lambda: len(world.encoder.calls) > 8 * world.settings.max_attempts)
    world.encoder.broken = None
    assert [counts(await world.done(job)) for job in jobs] == [(4, 4, 0, 0), (1, 1, 0, 0)]


async def test_an_encoder_of_one_collection_that_times_out_holds_up_no_other(make_world: Make, posted: Make) -> None:
    world = make_world(retry_base_s=30.0, retry_max_s=60.0, concurrency=1)
    slow, first = type(world.encoder)(), world.encoder.model
    world.encoder.model = slow.model = type(first)("new", "fingerprint-2", 8, 100, 16)
    slow.broken = EncoderTimedOut("slow")
    waits = await world.post(*posted("a"), collection="slow")
    world.encoder.model = first
    encoders = Encoders.of(world.encoder, slow)
    worker = Worker(world.ledger, world.store, encoders, world.blobs, world.fetcher, world.settings, world.progress)
    world.workers.append(worker)
    await worker.start()
    await world.until_job(waits, lambda found: found.waiting_on == "slow")
    assert counts(await world.done(await world.post(*posted("b")))) == (1, 1, 0, 0)


async def test_a_fetch_does_not_go_on_when_another_one_has_raised(world: Any) -> None:
    ended: list[str] = []
    never = asyncio.Event()

    async def fetch(url: str) -> bytes:
        if url == "https://bug/":
            raise RuntimeError("nobody foresaw this")
        if not ended:
            try:
                await never.wait()
            finally:
                ended.append(url)
        return b"image"

    world.fetcher.fetch = fetch
    job = await world.post(
        Incoming(0, id="slow", image_url="https://slow/"), Incoming(1, id="bug", image_url="https://bug/")
    )
    assert counts(await world.done(job)) == (2, 1, 0, 1)
    assert ended == ["https://slow/"]


async def test_a_process_that_stood_still_before_its_write_does_not_write(
    make_world: Make, posted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then another worker may have written what was accepted later."""
    world = make_world(concurrency=1)
    renew, stood_still_s = world.ledger.batches.renew.blocking, 0.0

    def freeze(*args: Any, **options: Any) -> bool:
        nonlocal stood_still_s
        held: bool = renew(*args, **options)
        if options.get("writing") and not stood_still_s:
            stood_still_s = world.settings.lease_s + 1
            assert world.store.upserts == []
        return held

    replace_operation(monkeypatch, world.ledger.batches, "renew", freeze)
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + stood_still_s)
    monkeypatch.setattr(runner, "time", clock)
    await world.start_worker()
    assert counts(await world.done(await world.post(*posted("a")))) == (1, 1, 0, 0)
    assert len(world.encoder.calls) == 2, "once in vain"
    assert world.store.upserts == [["a"]]


@pytest.mark.parametrize("deletes", [False, True])
async def test_a_write_that_comes_too_late_is_made_good(
    make_world: Make, deletes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stands still between its look at the lease and the write; another one writes it, and what was accepted later."""
    world = make_world(concurrency=1)
    upsert, stands, goes_on = FakePoints.upsert, asyncio.Event(), asyncio.Event()

    async def stand_still(points: Any, given: Any) -> None:
        if not stands.is_set():
            stands.set()
            await goes_on.wait()
        await upsert(points, given)

    monkeypatch.setattr(FakePoints, "upsert", stand_still)
    await world.start_worker()
    old = await world.post(Incoming(0, id="a", text="old"))
    await stands.wait()
    world.ledger.database._clock = lambda: time.time() + world.settings.lease_s + 1
    await world.start_worker()
    await world.done(old)
    later = (
        world.intake.delete(await world.collection(), ["a"]) if deletes else world.post(Incoming(0, id="a", text="new"))
    )
    await world.done(await later)
    expected = {} if deletes else {"a": "new"}
    assert world.stored() == expected
    goes_on.set()
    await world.until(
        lambda: any(job.kind is JobKind.REPAIR and job.state.finished for job in world.ledger.jobs.newest.blocking())
    )
    assert world.stored() == expected
    assert len(world.store.upserts) == (2 if deletes else 4), "the late one was made"


async def test_a_cancelled_job_stops_within_one_batch(make_world: Make, posted: Make) -> None:
    world = make_world(batch_documents=1, concurrency=1)
    await world.start_worker()
    world.encoder.gate.clear()
    job = await world.post(*posted(*"abcde"))
    await world.until(lambda: len(world.encoder.calls) == 1)
    await world.ledger.jobs.cancel(job.id)
    world.encoder.gate.set()
    done = await world.done(job)
    assert (done.state, done.indexed, done.cancelled) == (JobState.CANCELLED, 1, 4)
    assert world.stored() == {"a": "a"}


async def test_a_retry_indexes_what_failed(world: Any, posted: Make) -> None:
    world.fetcher.pages["https://host/"] = Forbidden("not public")
    job = await world.post(Incoming(0, id="a", text="fine"), Incoming(1, id="b", image_url="https://host/"))
    await world.done(job)
    world.fetcher.pages["https://host/"] = b"image"
    again, _ = await world.ledger.retries.start(job.id)
    world.wakeups.work_arrived()
    assert counts(await world.done(again)) == (1, 1, 0, 0)
    assert set(world.stored()) == {"a", "b"}


async def test_small_jobs_share_an_encoder_call(make_world: Make, posted: Make) -> None:
    world = make_world(batch_documents=4, concurrency=1)
    jobs = [await world.post(*posted(text)) for text in ("a", "b", "bad", "d", "e")]
    await world.start_worker()
    for job in jobs:
        await world.done(job)
    assert [len(call) for call in world.encoder.calls] == [4, 1]
    assert await failures(world, jobs[2]) == {"bad": "invalid_input"}


async def test_a_lease_that_was_lost_writes_nothing(make_world: Make, posted: Make) -> None:
    """Another worker took the batch over while this one was held up; what that one wrote must stand."""
    world = make_world(concurrency=1)
    await world.start_worker()
    world.encoder.gate.clear()
    await world.post(*posted("a"))
    await world.until(lambda: len(world.encoder.calls) == 1)
    world.ledger.database._clock = lambda: time.time() + 2 * world.settings.lease_s
    (taken,) = await world.ledger.batches.claim(1, 600.0)
    world.encoder.gate.set()
    await world.workers[0].stop()
    assert world.store.upserts == []
    assert taken.attempts == 0
    assert world.ledger.batches.renew.blocking([taken], 60.0)


async def test_a_collection_dropped_under_the_worker_leaves_nothing(world: Any, posted: Make) -> None:
    world.encoder.gate.clear()
    await world.post(*posted("a"))
    await world.until(lambda: len(world.encoder.calls) == 1)
    await world.catalog.drop("c")
    await world.collection()
    world.encoder.gate.set()
    assert counts(await world.done(await world.post(*posted("b")))) == (1, 1, 0, 0)
    assert world.stored() == {"b": "b"}
    assert world.workers[0].alive


async def test_a_loop_that_dies_is_seen(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    assert world.workers[0].alive
    replace_operation(monkeypatch, world.ledger.batches, "claim", broken)
    world.wakeups.work_arrived()
    await world.until(lambda: not world.workers[0].alive)


async def test_a_database_that_is_away_is_waited_for(world: Any, posted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def away(*_: Any, **__: Any) -> None:
        nonlocal tries
        tries += 1
        raise DependencyUnavailable("database is away")

    with monkeypatch.context() as patch:
        replace_operation(patch, world.ledger.batches, "claim", away)
        job = await world.post(*posted("a"))
        await world.until(lambda: tries > 3)
    assert counts(await world.done(job)) == (1, 1, 0, 0)


async def test_an_outcome_is_recorded_when_the_database_is_back(
    world: Any, posted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to wait for the lease to run out."""
    tries: list[str] = []
    for name in ("finish", "release"):
        real = getattr(world.ledger.batches, name).blocking

        def away(*args: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            tries.append(_name)
            if len(tries) < 6:
                raise DependencyUnavailable("database is away")
            return _real(*args, **options)

        replace_operation(monkeypatch, world.ledger.batches, name, away)
    done = await world.done(await world.post(*posted("a")))
    assert done.state is JobState.SUCCEEDED
    assert tries[:6] == ["finish"] + ["release"] * 5


async def test_waiting_ends_with_the_time(world: Any, posted: Make) -> None:
    world.encoder.gate.clear()
    job = await world.post(*posted("a"))
    assert not (await world.progress.wait(job.id, 0)).state.finished
    assert not (await world.progress.wait(job.id, 0.01)).state.finished


# --- order


@pytest.mark.parametrize("seed", range(3))
async def test_the_last_accepted_write_wins_with_three_workers(make_world: Make, seed: int) -> None:
    world = make_world(batch_documents=3, concurrency=2)
    for _ in range(3):
        await world.start_worker()
    rng = random.Random(seed)
    collection = await world.collection()
    expected: dict[str, tuple[str, dict[str, int]]] = {}
    jobs = []
    failed = 0
    for number in range(60):
        ids = [f"d{rng.randrange(12)}" for _ in range(rng.randrange(1, 7))]
        kind = rng.random()
        if kind < 0.4:
            patches = [{rng.choice("xyz"): rng.choice([None, number])} for _ in ids]
            updates = [
                Incoming(i, id=each, metadata={"metadata": patch})
                for i, (each, patch) in enumerate(zip(ids, patches, strict=True))
            ]
            jobs.append(await world.post(*updates, kind=JobKind.UPDATE))
            for each, patch in zip(ids, patches, strict=True):
                failed += each not in expected
                if each in expected:
                    text, metadata = expected[each]
                    expected[each] = text, merged(metadata, patch)
        elif kind < 0.6:
            jobs.append(await world.intake.delete(collection, ids))
            for each in ids:
                expected.pop(each, None)
        else:
            documents = [
                Incoming(i, id=each, text=f"{number}.{i}", metadata={"x": number}) for i, each in enumerate(ids)
            ]
            jobs.append(await world.post(*documents))
            expected |= {each.id: (each.text, {"x": number}) for each in documents}
        if rng.random() < 0.1:
            world.encoder.broken = rng.choice([None, DependencyUnavailable("away")])
    world.encoder.broken = None
    for job in jobs:
        done = await world.done(job)
        failed -= done.failed
        assert done.accepted == done.indexed + done.skipped + done.failed
    assert failed == 0, "an update of what is not there fails, and nothing else does"
    stored = world.store.kept["c"][1]
    assert {key: (point.text, point.metadata) for key, point in stored.items()} == expected
    # Each vector is that of the text that stands, whatever metadata came after it.
    vectors = await world.encoder.encode(
        [Input(point.text) for point in stored.values()], role=Role.DOCUMENT, lane=Lane.BULK
    )
    for point, embedding in zip(stored.values(), vectors, strict=True):
        assert np.allclose(point.vector, embedding.vector)


# --- URLs whose hosts never answer


async def test_urls_that_never_answer_hold_up_nobody_else(make_world: Make, posted: Make) -> None:
    """Neither the documents of other collections nor the URLs of other jobs, and they are given back when the worker stops."""
    world = make_world(batch_documents=2)
    hanging: list[str] = []

    async def fetch(url: str) -> bytes:
        if "never" in url:
            hanging.append(url)
            await asyncio.sleep(3_600)
        return b"fetched"

    world.fetcher.fetch = fetch
    stuck = await world.post(
        *(Incoming(number, id=f"u{number}", image_url=f"https://h{number}.example/never") for number in range(40))
    )
    worker = await world.start_worker()
    await world.until(lambda: len(hanging) > 0)
    plain = await world.post(*posted("a", "b", "c"), collection="plain")
    assert (await world.done(plain)).indexed == 3
    urls = await world.post(Incoming(0, id="x", image_url="https://good.example/a"), collection="urls")
    assert (await world.done(urls)).indexed == 1
    assert len(hanging) == 4, "one job has half of the places, each with a batch of two documents"
    assert not (await world.ledger.jobs.find(stuck.id)).state.finished
    started = time.monotonic()
    await worker.stop(timeout_s=0.1)
    assert time.monotonic() - started < 5
    async with asyncio.timeout(5):
        await Worker.start(worker)
        await world.until(lambda: len(hanging) == 8)


async def test_plain_batches_pass_those_of_the_same_claim_that_fetch(make_world: Make) -> None:
    """Small posts of one collection are claimed together."""
    world = make_world(batch_documents=8)

    async def fetch(url: str) -> bytes:
        await asyncio.sleep(3_600)
        return b""

    world.fetcher.fetch = fetch
    waiting = await world.post(Incoming(0, id="u", image_url="https://never.example/a"))
    plain = await world.post(Incoming(0, id="p", text="p"))
    await world.start_worker()
    assert (await world.done(plain)).indexed == 1
    assert not (await world.ledger.jobs.find(waiting.id)).state.finished


async def test_a_document_that_takes_the_store_over_its_time_alone_fails_at_once(
    make_world: Make, posted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has just answered for another one, and searches wait while it is tried: it is not tried `max_attempts` times."""
    world = make_world(max_attempts=9)
    upsert, tries = FakePoints.upsert, 0

    async def slow(points: FakePoints, given: Any) -> None:
        nonlocal tries
        if any(point.text == "slow" for point in given):
            tries += 1
            raise StoreTimedOut("the Edge process did not answer in 120 s")
        await upsert(points, given)

    monkeypatch.setattr(FakePoints, "upsert", slow)
    await world.start_worker()
    job = await world.post(*posted("a", "slow", "b"))
    assert counts(await world.done(job)) == (3, 2, 0, 1)
    assert await failures(world, job) == {"slow": "store_timed_out"}
    assert tries == 3, "twice in its batch, once alone"
