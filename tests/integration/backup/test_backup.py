"""Backed up, brought into an empty installation, the same: over Qdrant Edge, a Qdrant client and PostgreSQL, and from an earlier version.

A backup that was broken off or that something happened to is refused, and a restoration that breaks off can be repeated.
"""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_store import FakeStore
from ledger_steps import pages, replace_operation
from postgres_server import PostgresServer

from indexer.backup.backup import Installation, back_up, restore
from indexer.blobs.image_store import Blobs
from indexer.domain.collections import Collection
from indexer.domain.documents import Document
from indexer.domain.jobs import JobKind, Outcome, Status
from indexer.domain.points import Page, Part, Point, mean_of
from indexer.filters import FieldType
from indexer.ledger.ledger import Ledger
from indexer.store.base import SearchWindow, Store
from indexer.store.criteria import Nearest
from indexer.store.edge.client import EdgeStore
from indexer.store.server.store import ServerStore, ServerStoreSettings
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound
from model.types import ModelInfo

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]
D = 8
GOLDEN = Path(__file__).parents[2] / "golden"
Open = Callable[..., Installation]


def point(number: int, digest: str | None = None) -> Point:
    vector = np.random.default_rng(number).standard_normal(D).astype(np.float32)
    metadata = {"n": number, "x": 1.0, "é": [None, True, {"deep": "ü"}]}
    one = Point(f"d{number}", vector, f"text {number}", digest, metadata, f"hash {number}", ((0.25, 0.75),))
    if digest is None or number % 3:
        return one
    rows = np.stack([vector / np.linalg.norm(vector), np.eye(D, dtype=np.float32)[number % D]])
    parts = (Part(0, 4, 0, ((0.25, 0.75),)), Part(0, 4, 1))
    return replace(one, vector=mean_of(rows), parts=parts, part_vectors=rows, more_images=(digest,))


@pytest.fixture
async def installations(tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[Installation] = []

    def make(name: str, kind: str = "edge", database: str | None = None) -> Installation:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        store: Store = EdgeStore(folder / "index")
        if kind != "edge":
            store = ServerStore(ServerStoreSettings(":memory:")) if kind == "memory" else FakeStore()
        ledger = Ledger.open(database or f"sqlite:///{folder / 'ledger.sqlite'}", exclusive=database is None)
        opened.append(Installation(ledger, store, Blobs(f"file://{folder / 'blobs'}")))
        return opened[-1]

    yield make
    for each in opened:
        await each.store.close()
        each.blobs.close()
        each.ledger.close()


async def fill(installation: Installation) -> Any:
    """Two collections, one of which is being reindexed; images; a job that is done and one that is not."""
    ledger, store = installation.ledger, installation.store
    indexes = {"n": FieldType.NUMBER}
    flags = Collection("flags", "fingerprint-1", "old", D, 1.5, "find", limit=7, indexes=indexes)
    for collection in (flags, Collection("empty", "fingerprint-1", "old", D, 2.5)):
        await store.create(collection.name, D, collection.indexes)
        ledger.collections.create.blocking(collection)
    ledger.aliases.set.blocking("also", "flags")
    digest = await installation.blobs.put(b"picture")
    await store.points("flags").upsert([point(number, digest if number % 2 else None) for number in range(300)])
    ledger.reindexes.start.blocking(flags, ModelInfo("new", "fingerprint-2", D, 10, 16), documents=300, max_failures=0)
    reindex = ledger.reindexes.find.blocking("flags")
    assert reindex is not None
    await store.create(reindex.points_name, D)
    await store.points(reindex.points_name).upsert([point(number) for number in range(5)])
    ledger.reindexes.plan_page.blocking(reindex, Page(tuple(f"d{number}" for number in range(9)), "here"))
    done, _ = ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS, idempotency_key="once")
    ledger.submissions.append.blocking(
        done.id, [(0, Document("d1", "text", metadata={"a": "é"})), (1, Document("bad"))]
    )
    ledger.submissions.commit.blocking(done.id, body_hash="hash")
    (batch,) = ledger.batches.claim.blocking(1, 60.0)
    outcomes = [Outcome(0, "d1", Status.INDEXED), Outcome(1, "bad", Status.FAILED, "invalid_input", "why")]
    ledger.batches.finish.blocking([(batch, outcomes)])
    changes, _ = ledger.submissions.open.blocking("flags", JobKind.UPDATE)
    ledger.submissions.append.blocking(changes.id, [(0, Document("d4", metadata={"n": None}))])
    ledger.submissions.commit.blocking(changes.id)
    (batch,) = ledger.batches.claim.blocking(1, 60.0)
    ledger.batches.finish.blocking([(batch, [Outcome(0, "d4", Status.INDEXED)])])
    left, _ = ledger.submissions.open.blocking("flags", JobKind.DELETE)
    ledger.submissions.append.blocking(left.id, [(0, Document("d2"))])
    ledger.submissions.commit.blocking(left.id)
    ledger.batches.claim.blocking(1, 300.0)  # in the hands of a worker
    return ledger.jobs.find.blocking(left.id)


async def same(one: Installation, other: Installation) -> None:
    assert other.ledger.collections.all.blocking() == one.ledger.collections.all.blocking()
    assert other.ledger.aliases.all.blocking() == one.ledger.aliases.all.blocking()
    assert other.ledger.reindexes.all.blocking() == one.ledger.reindexes.all.blocking()
    assert other.ledger.jobs.newest.blocking() == one.ledger.jobs.newest.blocking()
    for job in one.ledger.jobs.newest.blocking():
        assert other.ledger.jobs.failures.blocking(job.id) == one.ledger.jobs.failures.blocking(job.id)
        assert list(pages(other.ledger, job.id)) == list(pages(one.ledger, job.id))
    (reindex,) = one.ledger.reindexes.all.blocking()
    for name in ("flags", "empty", reindex.points_name):
        mine, theirs = one.store.points(name), other.store.points(name)
        assert await theirs.count() == await mine.count()
        for seed in range(3):
            query = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
            expected, found = (
                await mine.search(Nearest(query), SearchWindow(limit=50)),
                await theirs.search(Nearest(query), SearchWindow(limit=50)),
            )
            assert [hit.document_id for hit in found] == [hit.document_id for hit in expected]
            np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-6)
            assert [(h.text, h.metadata, h.digests, h.shares, h.parts) for h in found] == [
                (h.text, h.metadata, h.digests, h.shares, h.parts) for h in expected
            ]
        for stored, source in zip(await theirs.fetch(["d3", "d9"]), await mine.fetch(["d3", "d9"]), strict=True):
            assert (stored and stored.content_hash) == (source and source.content_hash)
            if stored is not None and source is not None:
                np.testing.assert_allclose(stored.vectors, source.vectors, atol=1e-6)
                assert len(stored.vectors) == (2 if name == "flags" else 1)
    digests = [blob.digest async for page in one.blobs.pages() for blob in page]
    assert [await other.blobs.get(digest) for digest in digests] == [b"picture"]


@pytest.mark.parametrize(
    ("source", "target", "portable"),
    [("edge", "edge", False), ("edge", "memory", True), ("memory", "edge", False), ("fake", "fake", False)],
)
async def test_there_and_back(installations: Open, tmp_path: Path, source: str, target: str, portable: bool) -> None:
    one = installations("one", source)
    left = await fill(one)
    made = await back_up(one, tmp_path / "backup", version="0.2", portable=portable)
    assert [(each.name, each.documents) for each in made.points] == [
        ("empty", 0),
        ("flags", 300),
        (one.ledger.reindexes.all.blocking()[0].points_name, 5),
    ]
    other = installations("other", target)
    assert await restore(tmp_path / "backup", other) == made
    await same(one, other)
    # Nobody holds what a worker of the first had in hand, and numbers go on where they were.
    assert [batch.job_id for batch in other.ledger.batches.claim.blocking(1, 60.0)] == [left.id]
    new, _ = other.ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    other.ledger.submissions.append.blocking(new.id, [(0, Document("new"))])
    assert other.ledger.submissions.commit.blocking(new.id).id == other.ledger.jobs.newest.blocking()[0].id


async def test_a_ledger_in_postgresql_and_from_there_into_sqlite(
    installations: Open, tmp_path: Path, postgres: PostgresServer
) -> None:
    one = installations("one", "fake", postgres.new_database())
    await fill(one)
    await back_up(one, tmp_path / "first", version="0.2")
    two = installations("two", "fake", postgres.new_database())
    await restore(tmp_path / "first", two)
    await same(one, two)
    new, _ = two.ledger.submissions.open.blocking("flags", JobKind.DOCUMENTS)
    two.ledger.submissions.append.blocking(new.id, [(0, Document("new"))])
    two.ledger.submissions.commit.blocking(new.id)
    two.ledger.submissions.abandon.blocking(new.id)

    await back_up(one, tmp_path / "second", version="0.2")
    three = installations("three", "edge")
    await restore(tmp_path / "second", three)
    await same(one, three)


async def test_only_into_an_empty_installation(installations: Open, tmp_path: Path) -> None:
    one = installations("one")
    await fill(one)
    await back_up(one, tmp_path / "backup", version="0.2")
    with pytest.raises(Conflict, match="empty installation"):
        await restore(tmp_path / "backup", one)
    other = installations("other")
    await other.store.create("flags", D)
    with pytest.raises(Conflict, match="has a collection flags already"):
        await restore(tmp_path / "backup", other)
    assert await other.store.points("flags").count() == 0
    await other.store.drop("flags")
    await restore(tmp_path / "backup", other)
    await same(one, other)


async def test_a_folder_of_its_own(installations: Open, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "notes.txt").touch()
    with pytest.raises(Conflict, match="not empty"):
        await back_up(installations("one"), tmp_path / "backup", version="0.2")


async def test_half_a_backup_is_none(installations: Open, tmp_path: Path) -> None:
    one = installations("one", "fake")
    await fill(one)

    one.store.broken = DependencyUnavailable("the store is away")  # type: ignore[attr-defined]
    with pytest.raises(DependencyUnavailable, match="away"):
        await back_up(one, tmp_path / "backup", version="0.2", patience_s=0)
    with pytest.raises(NotFound, match="broken off"):
        await restore(tmp_path / "backup", installations("other"))
    with pytest.raises(NotFound, match="no backup"):
        await restore(tmp_path / "nothing", installations("third"))


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


async def test_a_damaged_backup_is_refused(installations: Open, tmp_path: Path) -> None:
    one = installations("one")
    await fill(one)
    await back_up(one, tmp_path / "backup", version="0.2")
    other = installations("other")
    for which in ("ledger.sqlite", "points/flags.tar.gz", "blobs.txt", "blobs/*/*"):
        for harm in (shorten, change, Path.unlink):
            damaged = tmp_path / f"{which.replace('/', '-')} {harm.__name__}"
            shutil.copytree(tmp_path / "backup", damaged)
            (file,) = damaged.glob(which)
            harm(file)
            with pytest.raises(InvalidInput, match=r"damaged|missing|cannot be read"):
                await restore(damaged, other)
            assert other.ledger.collections.all.blocking() == []
    await restore(tmp_path / "backup", other)
    await same(one, other)


async def test_a_manifest_that_is_none(installations: Open, tmp_path: Path) -> None:
    await back_up(installations("one", "fake"), tmp_path / "backup", version="0.2")
    file = tmp_path / "backup" / "manifest.json"
    whole, other = json.loads(file.read_text()), installations("other", "fake")
    for name, value, message in (
        ("format", 99, "format 99"),
        ("files", {}, "no checksum of blobs.txt"),
        ("points", 3, "cannot be read"),
        ("unknown", 3, "cannot be read"),
    ):
        file.write_text(json.dumps({**whole, name: value}))
        with pytest.raises(InvalidInput, match=message):
            await restore(tmp_path / "backup", other)


async def test_a_restoration_that_breaks_off_can_be_repeated(
    installations: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = installations("one")
    await fill(one)
    await back_up(one, tmp_path / "backup", version="0.2")
    other = installations("other")

    def broken(*_: Any) -> None:
        raise DependencyUnavailable("the database is away")

    with monkeypatch.context() as patch:
        replace_operation(patch, other.ledger.dump, "load", broken)
        with pytest.raises(DependencyUnavailable):
            await restore(tmp_path / "backup", other)
    await restore(tmp_path / "backup", other)
    await same(one, other)


async def test_an_embedded_index_is_nothing_for_a_server(installations: Open, tmp_path: Path) -> None:
    one = installations("one")
    await fill(one)
    await back_up(one, tmp_path / "backup", version="0.2")
    other = installations("other", "memory")
    with pytest.raises(InvalidInput, match="--portable"):
        await restore(tmp_path / "backup", other)
    assert other.ledger.collections.all.blocking() == []


async def test_images_elsewhere_are_looked_for(installations: Open, tmp_path: Path) -> None:
    one = installations("one")
    await fill(one)
    away = Installation(one.ledger, one.store, Blobs("memory://here"))
    await away.blobs.put(b"picture")
    made = await back_up(away, tmp_path / "backup", version="0.2")
    assert (made.images, made.images_included) == (1, False)
    assert not (tmp_path / "backup" / "blobs").exists()
    other = installations("other")
    with pytest.raises(Conflict, match="1 of 1 images"):
        await restore(tmp_path / "backup", other)
    await other.blobs.put(b"picture")
    await restore(tmp_path / "backup", other)
    away.blobs.close()
