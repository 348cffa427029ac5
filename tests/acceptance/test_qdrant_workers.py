"""Two worker processes that write through two nodes of a real Qdrant cluster: the last accepted write wins on every copy."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient
from qdrant_nodes import Cluster, three_nodes
from worker_process import MODEL, D

from indexer.blobs.image_store import Blobs, BlobSettings
from indexer.domain.collections import Collection
from indexer.domain.documents import Incoming
from indexer.domain.jobs import Job, JobKind, JobState
from indexer.intake import Intake
from indexer.ledger.ledger import Ledger
from indexer.settings import IndexerSettings
from indexer.store.server.settings import CollectionSettings, ServerStoreSettings
from indexer.store.server.store import ServerStore

pytestmark = [pytest.mark.qdrant_server, pytest.mark.timeout(200)]
SCRIPT = Path(__file__).parents[1] / "support/worker_process.py"


async def each(documents: list[Incoming]) -> AsyncIterator[Incoming]:
    for document in documents:
        yield document


def texts_by_node(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the texts that each node has: it reads its own copies first."""
    seen = []
    for node in cluster.nodes:
        client = QdrantClient(node.url, check_compatibility=False)
        records, _ = client.scroll("ret2~~c", limit=1_000)
        seen.append({(record.payload or {})["document_id"]: (record.payload or {})["text"] for record in records})
        client.close()
    return seen


@pytest.mark.parametrize("deletes", [False, True])
def test_a_worker_that_stood_still_past_its_lease_undoes_no_later_write(
    deletes: bool, postgres_url: str, tmp_path: Path
) -> None:
    """SIGSTOP between its look at the lease and the write through one node, until another worker has had the batch, and
    has written what came after it through another node."""
    with three_nodes(tmp_path / "cluster") as cluster:
        ledger = Ledger.open(postgres_url)
        blobs = Blobs(BlobSettings(f"file://{tmp_path / 'blobs'}"))
        workers: list[subprocess.Popen[bytes]] = []
        try:
            asyncio.run(_stand_still(cluster, ledger, blobs, workers, deletes, postgres_url, tmp_path))
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            ledger.close()
            blobs.close()


async def _stand_still(
    cluster: Cluster,
    ledger: Ledger,
    blobs: Blobs,
    workers: list[subprocess.Popen[bytes]],
    deletes: bool,
    url: str,
    folder: Path,
) -> None:
    copies = CollectionSettings(shards=3, replication_factor=2)
    store = ServerStore(ServerStoreSettings(cluster.urls, grpc_port=cluster.grpc_port, collection=copies))
    await store.create("c", D)
    await store.close()
    collection = Collection("c", MODEL.fingerprint, MODEL.name, D, time.time())
    ledger.collections.create.blocking(collection)
    intake = Intake(ledger, blobs, IndexerSettings())
    (flag := folder / "store.stop").touch()

    def start(number: int) -> None:
        arguments = (url, folder / "store", folder / "blobs", number, cluster.nodes[number].url, cluster.grpc_port)
        workers.append(subprocess.Popen([sys.executable, str(SCRIPT), *map(str, arguments)]))

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(100):
            while not true():  # noqa: ASYNC110  another process
                await asyncio.sleep(0.1)

    async def done(job: Job) -> None:
        await until(lambda: ledger.jobs.find.blocking(job.id).state is JobState.SUCCEEDED)

    def repaired() -> bool:
        return any(
            job.kind is JobKind.REPAIR and job.state is JobState.SUCCEEDED for job in ledger.jobs.newest.blocking()
        )

    start(0)
    old = (await intake.accept(collection, each([Incoming(n, id=f"d{n}", text="old") for n in range(9)]))).job
    await until(lambda: not flag.exists())
    start(1)
    await done(old)
    ids = [f"d{n}" for n in range(6)]
    if deletes:
        await done(await intake.delete(collection, ids))
    else:
        newer = [Incoming(n, id=id_, text="new") for n, id_ in enumerate(ids)]
        await done((await intake.accept(collection, each(newer))).job)
    kept = {f"d{n}": "old" for n in range(6, 9)}
    expected = kept if deletes else kept | dict.fromkeys(ids, "new")
    assert texts_by_node(cluster) == [expected] * 3
    workers[0].send_signal(signal.SIGCONT)
    await until(repaired)
    assert texts_by_node(cluster) == [expected] * 3
