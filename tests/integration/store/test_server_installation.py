"""An installation over a real Qdrant node: backup and restore while that node is killed, and a ledger that is older."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_nodes import Node, one_node
from worker_process import MODEL, D, MadeUpEncoder

from indexer.backup.backup import Installation, back_up, restore
from indexer.blobs.image_store import Blobs
from indexer.catalog import Catalog
from indexer.domain.collections import Collection
from indexer.domain.points import Hit, Point
from indexer.filters import FieldType, FullText, Range
from indexer.ledger.ledger import Ledger
from indexer.store.base import SearchWindow, ServerOptions, Store, Summary
from indexer.store.criteria import Criterion, Hybrid, Nearest, ReciprocalRanks, WordMatch
from indexer.store.edge.client import EdgeStore
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from indexer.worker.image_sweeper import Sweeper
from model.errors import Conflict, DependencyUnavailable, NotFound

pytestmark = [pytest.mark.qdrant_server, pytest.mark.timeout(180)]

DOCUMENTS = 3_000
WORDS = ("red", "boots", "blue", "shoes", "green", "coat", "wool", "rain")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with one_node(tmp_path_factory.mktemp("node")) as started:
        yield started


Open = Callable[..., Installation]


@pytest.fixture(params=["gRPC", "REST"])
async def install(request: pytest.FixtureRequest, node: Node, tmp_path: Path) -> AsyncIterator[Open]:
    """Return a function that opens an installation on Edge, or on the server."""
    opened: list[Installation] = []

    def open_(name: str, *, on_server: bool = False) -> Installation:
        (folder := tmp_path / name).mkdir(exist_ok=True)
        store: Store = EdgeStore(folder / "index")
        if on_server:
            by = {"prefer_grpc": request.param == "gRPC", "grpc_port": node.grpc_port, "collection_prefix": name}
            store = ServerStore(ServerStoreSettings(node.url, timeout_s=5, upsert_points=64, **by))
        ledger = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}", exclusive=True)
        opened.append(Installation(ledger, store, Blobs(f"file://{folder / 'blobs'}")))
        return opened[-1]

    yield open_
    for installation in opened:
        if isinstance(installation.store, ServerStore):
            for collection in installation.ledger.collections.all.blocking():
                await installation.store.drop(collection.name)
        await installation.store.close()
        installation.blobs.close()
        installation.ledger.close()


def point(number: int, digest: str | None = None) -> Point:
    draw = np.random.default_rng(number)
    text = " ".join(WORDS[place] for place in draw.integers(len(WORDS), size=5))
    metadata = {"n": number, "share": number / 7, "name": text, "deep": [{"ü": 2**63 + number}]}
    return Point(f"d{number}", draw.standard_normal(D).astype(np.float32), text, digest, metadata, f"hash {number}")


async def fill(installation: Installation, count: int, name: str = "c") -> None:
    fields = {"n": FieldType.NUMBER, "name": FieldType.TEXT}
    await installation.store.create(name, D, fields)
    collection = Collection(name, MODEL.fingerprint, MODEL.name, D, time.time(), indexes=fields)
    installation.ledger.collections.create.blocking(collection)
    await installation.store.points(name).upsert([point(number) for number in range(count)])


async def answers(store: Store) -> list[list[Hit]]:
    query = np.random.default_rng(1).standard_normal(D).astype(np.float32)
    nearest, words = Nearest(query), WordMatch("red wool")
    searches: list[tuple[Criterion, Any]] = [
        (nearest, None),
        (nearest, Range("n", gte=100, lt=1_000)),
        (nearest, FullText("name", "green rain")),
        (words, None),
        (Hybrid(nearest, words, ReciprocalRanks(60), 500), Range("n", lt=2_000)),
    ]
    points = store.points("c")
    return [await points.search(criterion, SearchWindow(50, condition=filter_)) for criterion, filter_ in searches]


async def same(first: Store, second: Store) -> None:
    for expected, hits in zip(await answers(first), await answers(second), strict=True):
        assert len(expected) == 50
        assert [hit.document_id for hit in hits] == [hit.document_id for hit in expected]
        assert [(hit.text, hit.metadata) for hit in hits] == [(hit.text, hit.metadata) for hit in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=1e-5)
    ids = [f"d{number}" for number in range(0, DOCUMENTS, 100)]
    for old, new in zip(*[await store.points("c").fetch(ids) for store in (first, second)], strict=True):
        assert old is not None
        assert new is not None
        assert (old.content_hash, old.metadata) == (new.content_hash, new.metadata)
        np.testing.assert_allclose(old.vector, new.vector, atol=1e-6)


async def test_from_edge_to_a_server_that_is_killed_and_back(install: Open, node: Node, tmp_path: Path) -> None:
    """Killed in the midst of the restore, and again before the backup: both wait for it."""
    edge = install("edge")
    await fill(edge, DOCUMENTS)
    await back_up(edge, tmp_path / "first", version="0.2", portable=True)
    server, said = install("server", on_server=True), list[str]()
    restoring = asyncio.create_task(restore(tmp_path / "first", server, report=said.append))
    async with asyncio.timeout(60):
        while not await _count(server.store):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    node.kill()
    await asyncio.sleep(1.5)
    assert not restoring.done()
    node.start()
    await restoring
    assert any(line.startswith("waiting for the store") for line in said)
    await same(edge.store, server.store)
    node.kill()
    saving = asyncio.create_task(back_up(server, tmp_path / "second", version="0.2", report=said.append))
    await asyncio.sleep(1.5)
    node.start()
    manifest = await saving
    assert [(saved.name, saved.documents) for saved in manifest.points] == [("c", DOCUMENTS)]
    back = install("back")
    await restore(tmp_path / "second", back)
    await same(edge.store, back.store)


async def test_a_backup_has_the_options_of_a_server(install: Open, tmp_path: Path) -> None:
    """But for shards and copies, which are those of the cluster that it is restored to."""
    origin = install("origin", on_server=True)
    await fill(origin, 10)
    options = ServerOptions(quantization="scalar", vectors_on_disk=True, hnsw_m=24, hnsw_ef=99)
    await origin.store.create("c", D, options=options)
    await back_up(origin, tmp_path / "backup", version="0.2")
    shown = (await origin.store.summaries(["c"]))["c"]
    target = install("target", on_server=True)
    await restore(tmp_path / "backup", target)
    restored = (await target.store.summaries(["c"]))["c"]
    assert isinstance(shown, Summary)
    assert shown.kept is not None
    assert options.changed_from(shown.kept) == ServerOptions()
    assert isinstance(restored, Summary)
    assert restored.kept is not None
    assert replace(restored.kept, status="") == replace(shown.kept, status="")


async def _count(store: Store) -> int:
    try:
        return await store.points("c").count()
    except (NotFound, DependencyUnavailable):
        # A server says the latter while it makes a collection.
        return 0


async def test_a_ledger_that_is_older_than_the_server(install: Open, tmp_path: Path) -> None:
    """It knows nothing of a collection that was made since: that is named, and neither taken nor emptied. Of one that it
    knows, all documents are found, those written since too."""
    installation = install("older", on_server=True)
    await fill(installation, 100)
    saved = tmp_path / "ledger.sqlite"
    await installation.ledger.dump.save(saved)
    await installation.store.points("c").upsert([point(number) for number in range(100, 150)])
    await fill(installation, 30, "since")
    older = Ledger.open(f"sqlite:///{saved}", exclusive=True)
    catalog = Catalog(older, installation.store, MadeUpEncoder(random.Random(0)))
    try:
        with pytest.raises(Conflict, match="'since' with 30 documents that this service's ledger does not know"):
            await catalog.create("since")
        with pytest.raises(NotFound):
            await catalog.drop("since")
        (collection,) = await catalog.all()
        assert await catalog.points(collection).count() == 150
        swept = await Sweeper(older, installation.store, installation.blobs, 1.0).sweep()
        assert swept.deleted == 0
        assert await installation.store.points("since").count() == 30
    finally:
        older.close()


async def test_a_sweep_keeps_the_images_of_points_on_the_server(install: Open, tmp_path: Path) -> None:
    installation = install("swept", on_server=True)
    kept, unused = [await installation.blobs.put(picture) for picture in (b"kept", b"unused")]
    await fill(installation, 10)
    await installation.store.points("c").upsert([point(number, kept if number == 7 else None) for number in range(10)])
    days_ago = time.time() - 3 * 24 * 3600
    for file in (tmp_path / "swept" / "blobs").rglob("*"):
        os.utime(file, (days_ago, days_ago))
    swept = await Sweeper(installation.ledger, installation.store, installation.blobs, 1.0).sweep()
    assert (swept.kept, swept.deleted) == (1, 1)
    assert await installation.blobs.get(kept) == b"kept"
    with pytest.raises(NotFound):
        await installation.blobs.get(unused)
