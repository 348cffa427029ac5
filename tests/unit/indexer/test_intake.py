"""Accepting: on disk before it is answered, all of a call or nothing, and never more than a batch in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ledger_steps import replace_operation

from indexer.domain.documents import Incoming, Rejected
from indexer.domain.jobs import JobKind, JobState
from indexer.intake import Intake
from indexer.settings import IndexerSettings
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound

Make = Callable[..., Any]
REJECTED = Rejected(1, "bad", "invalid_input", "why")


@pytest.fixture
def world(make_world: Make) -> Any:
    """Without a worker: what was accepted stays where it is."""
    return make_world()


def items(world: Any) -> list[Any]:
    """What is in the queue, batch by batch."""
    return [list(batch.items) for batch in world.ledger.batches.claim.blocking(100, 60.0)]


async def test_documents_become_batches(world: Any, posted: Make) -> None:
    job = await world.post(*posted(*"abcdefghij"))
    assert (job.state, job.kind, job.accepted) == (JobState.QUEUED, JobKind.DOCUMENTS, 10)
    assert [len(batch) for batch in items(world)] == [4, 4, 2]


async def test_an_image_is_a_blob_before_its_document_is_in_the_ledger(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    put, append = world.blobs.put, world.ledger.submissions.append.blocking
    monkeypatch.setattr(world.blobs, "put", lambda data: (steps.append("blob"), put(data))[1])
    replace_operation(
        monkeypatch, world.ledger.submissions, "append", lambda *args: (steps.append("ledger"), append(*args))[1]
    )
    await world.post(Incoming(0, id="a", image=b"bytes"), Incoming(1, id="b", image_url="https://host/"))
    assert steps == ["blob", "ledger"]
    ((_, first), (_, second)) = items(world)[0]
    assert await world.blobs.get(first.image.digest) == b"bytes"
    assert (second.image.digest, second.image.url) == (None, "https://host/")


async def test_without_an_id_the_content_is_the_id(world: Any) -> None:
    same = [Incoming(i, text="t", image=b"i", metadata={"k": 1}) for i in range(2)]
    await world.post(*same, Incoming(2, text="t", image=b"i"), Incoming(3, text="t", image_url="https://host/"))
    ids = [document.id for batch in items(world) for _, document in batch]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


async def test_the_rejected_are_handed_back_and_not_counted(world: Any) -> None:
    collection = await world.collection()
    accepted = await world.intake.accept(collection, of(Incoming(0, text="a"), REJECTED, Incoming(2, text="b")))
    assert (accepted.rejected, accepted.rejected_codes) == ((REJECTED,), {"invalid_input": 1})
    assert accepted.job.accepted == 2
    assert [position for position, _ in items(world)[0]] == [0, 2]


async def test_of_many_rejected_the_first_are_kept_and_all_are_counted(world: Any) -> None:
    documents = of(REJECTED, Rejected(2, None, "too_large", "why"), Incoming(3, text="a"), REJECTED)
    accepted = await world.intake.accept(await world.collection(), documents, max_rejected=1)
    assert accepted.rejected == (REJECTED,)
    assert accepted.rejected_codes == {"invalid_input": 2, "too_large": 1}
    assert accepted.job.accepted == 1


async def test_when_all_are_rejected_the_job_is_over(world: Any) -> None:
    accepted = await world.intake.accept(await world.collection(), of(REJECTED))
    assert (accepted.job.state, accepted.job.accepted, accepted.rejected) == (JobState.SUCCEEDED, 0, (REJECTED,))


async def test_nothing_at_all_is_refused(world: Any) -> None:
    collection = await world.collection()
    with pytest.raises(InvalidInput, match="no document"):
        await world.intake.accept(collection, of())
    with pytest.raises(InvalidInput, match="no document ids"):
        await world.intake.delete(collection, [])
    assert world.ledger.jobs.newest.blocking() == []


async def test_a_key_makes_one_job_of_many_calls(world: Any) -> None:
    collection = await world.collection()

    async def accept(body_hash: str) -> Any:
        documents = of(Incoming(0, text="a"), REJECTED)
        return await world.intake.accept(collection, documents, idempotency_key="key", body_hash=lambda: body_hash)

    first = await accept("hash")
    assert await accept("hash") == first, "the rejected too: the first answer may have been lost"
    with pytest.raises(Conflict, match="another body"):
        await accept("other")
    assert len(items(world)) == 1


async def test_deleting_is_a_job_in_the_same_queue(world: Any) -> None:
    job = await world.intake.delete(await world.collection(), ["a", "b", "c", "d", "e"])
    assert (job.kind, job.accepted) == (JobKind.DELETE, 5)
    assert [[document.id for _, document in batch] for batch in items(world)] == [["a", "b", "c", "d"], ["e"]]


# --- all or nothing


async def test_a_call_that_breaks_off_leaves_nothing(world: Any) -> None:
    collection = await world.collection()

    async def breaks_off() -> AsyncIterator[Incoming]:
        for position in range(6):
            yield Incoming(position, text=str(position))
        raise ConnectionError("the client has gone")

    with pytest.raises(ConnectionError):
        await world.intake.accept(collection, breaks_off(), idempotency_key="key")
    assert items(world) == []
    again = await world.intake.accept(collection, of(Incoming(0, text="a")), idempotency_key="key")
    assert again.job.accepted == 1


async def test_the_ledger_hears_of_a_slow_call(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[str] = []
    heard, loop = asyncio.Event(), asyncio.get_running_loop()

    def keep_open(job_id: str) -> None:
        beats.append(job_id)
        loop.call_soon_threadsafe(heard.set)

    replace_operation(monkeypatch, world.ledger.submissions, "keep_open", keep_open)
    collection = await world.collection()
    intake = Intake(world.ledger, world.blobs, IndexerSettings(batch_documents=4), beat_s=0.01)

    async def slow() -> AsyncIterator[Incoming]:
        yield Incoming(0, text="a")
        await heard.wait()

    accepted = await intake.accept(collection, slow(), idempotency_key="key")
    assert set(beats) == {accepted.job.id}
    await asyncio.sleep(0.1)  # one may have been under way
    told = len(beats)
    await asyncio.sleep(0.1)
    assert len(beats) == told, "nor after it"


async def test_a_call_that_is_cancelled_leaves_nothing(world: Any) -> None:
    collection = await world.collection()
    waiting = asyncio.Event()

    async def hangs() -> AsyncIterator[Incoming]:
        for position in range(6):
            yield Incoming(position, text=str(position))
        waiting.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(world.intake.accept(collection, hangs(), idempotency_key="key"))
    await waiting.wait()
    with pytest.raises(Conflict):  # it is still being received
        await world.intake.accept(collection, of(Incoming(0, text="a")), idempotency_key="key")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert items(world) == []
    assert world.ledger.submissions.open.blocking("c", JobKind.DOCUMENTS, idempotency_key="key")[1]


async def test_a_disk_that_is_full_refuses_the_call(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_data: bytes) -> str:
        raise DependencyUnavailable("no space left")

    monkeypatch.setattr(world.blobs, "put", full)
    with pytest.raises(DependencyUnavailable):
        await world.post(Incoming(0, text="a"), Incoming(1, image=b"i"))
    assert world.ledger.jobs.newest.blocking() == []


async def test_a_collection_dropped_meanwhile(world: Any) -> None:
    collection = await world.collection()

    async def dropped_half_way() -> AsyncIterator[Incoming]:
        yield Incoming(0, text="a")
        await world.catalog.drop("c")
        yield Incoming(1, text="b")

    with pytest.raises(NotFound):
        await world.intake.accept(collection, dropped_half_way())


async def test_a_long_stream_is_held_one_batch_at_a_time(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = await world.collection()
    read = written = most = 0
    append = world.ledger.submissions.append.blocking

    def count(job_id: str, batch: Any) -> None:
        nonlocal written
        append(job_id, batch)
        written += len(batch)

    async def stream() -> AsyncIterator[Incoming]:
        nonlocal read, most
        for position in range(50):
            read += 1
            most = max(most, read - written)
            yield Incoming(position, text=str(position))

    replace_operation(monkeypatch, world.ledger.submissions, "append", count)
    assert (await world.intake.accept(collection, stream())).job.accepted == 50
    assert most <= world.settings.batch_documents


async def of(*documents: Incoming | Rejected) -> AsyncIterator[Incoming | Rejected]:
    for each in documents:
        yield each
