"""What was accepted survives `kill -9`, and is there once (promise 3); SIGTERM ends a service in order."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from qdrant_server import QdrantServer, qdrant  # noqa: F401 - a fixture

from indexer.domain.jobs import JobState
from model.errors import InProgress
from model.evaluation.atlas import Atlas
from service.cli.demo import atlas_documents
from service.client.client import Client

pytestmark = pytest.mark.timeout(300)
POST = 50  # documents of one request
PART = 360  # documents of atlas: six batches, some seconds of encoding


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(islice(atlas_documents(Atlas.read()), PART))


def found_ids(client: Client) -> list[str]:
    """Every id that searching can reach, once for each time it is found."""
    hits = client.search("atlas", text="country", limit=1000).hits
    return [hit.id for hit in hits]


def wait_for(client: Client, documents: int) -> None:
    """Until so many are indexed; fails when the moment was missed and there is no half-way to kill at."""
    while (found := client.collection("atlas").documents) < documents:
        time.sleep(0.02)
    assert found < PART


def test_kill_9_half_way_through_a_load(serve: Any, documents: list[dict[str, Any]]) -> None:
    client = serve.start()
    client.create_collection("atlas")
    posted = client.post_documents("atlas", documents, max_documents=120)
    jobs = [one.job.id for one in posted if one.job is not None]
    assert [one.rejected for one in posted] == [()] * 3

    wait_for(client, PART // 3)
    serve.send(signal.SIGKILL)
    client = serve.start()
    done = [client.wait_job(job) for job in jobs]

    assert [job.state for job in done] == [JobState.SUCCEEDED] * 3
    assert sum(job.indexed + job.skipped for job in done) == PART
    assert client.collection("atlas").documents == PART
    assert sorted(found_ids(client)) == sorted(document["id"] for document in documents)


def _post(client: Client, documents: list[dict[str, Any]], key: str) -> str:
    try:
        (posted,) = client.post_documents("c", documents, idempotency_key=key)
    except InProgress:
        (posted,) = client.post_documents("c", documents, idempotency_key=f"{key}, again")
    assert posted.job is not None
    return posted.job.id


class Kills:
    """`kill -9` of processes at once while one of them has batches in hand, as the ledger says; what was held is read after death."""

    def __init__(self, ledger: str, *processes: Any, seed: int) -> None:
        self._ledger = sa.create_engine(ledger, poolclass=sa.NullPool)
        self._processes = processes
        self._chance = random.Random(seed)
        self._left: set[str] = set()  # by the dead: in a ledger that several share they stay until they run out
        self.held: list[int] = []  # batches, at each kill

    def __call__(self) -> None:
        deadline = time.monotonic() + 120
        while not self._leases():
            assert time.monotonic() < deadline, "nobody has anything in hand"
            time.sleep(0.01)
        time.sleep(self._chance.uniform(0.0, 0.3))
        for each in self._processes:
            os.kill(each.pid, signal.SIGKILL)
        for each in self._processes:
            each.send(signal.SIGKILL)  # again, and waits
        leases = self._leases()
        self.held.append(len(leases))
        self._left |= set(leases)
        for each in self._processes:
            each.start()

    def _leases(self) -> list[str]:
        with self._ledger.connect() as connection:
            found = connection.execute(sa.text("SELECT lease FROM batches WHERE lease IS NOT NULL AND NOT done"))
            return [lease for lease in found.scalars() if lease not in self._left]


def survive(url: str, kill: Kills, kills: int, part: int = 250) -> None:
    """Documents are posted and indexed through kills: none is lost, none is there twice, and failures are those planted: one in a
    hundred refers to an image that nobody may fetch."""
    jobs: list[str] = []
    for number in range(kills):
        with Client(url, attempts=1_000, give_up_after_s=300) as client, ThreadPoolExecutor(1) as beside:
            killed = beside.submit(kill)
            for first in range(number * part, (number + 1) * part, POST):
                jobs.append(_post(client, [_planted(each) for each in range(first, first + POST)], f"from {first}"))
            killed.result()
    assert sum(map(bool, kill.held)) > kills / 2, f"batches in hand at each kill: {kill.held}"
    everything = [_planted(number) for number in range(kills * part)]
    good = {one["id"]: one["text"] for one in everything if "image" not in one}
    with Client(url) as client:
        done = [client.wait_job(job, timeout_s=300) for job in jobs]
        assert len(set(jobs)) == len(client.jobs(limit=1000)) == kills * part // POST
        assert sum(job.accepted for job in done) == kills * part
        failures = [failure for job in done for failure in client.failures(job.id)]
        assert sorted(failure.id for failure in failures) == sorted(
            one["id"] for one in everything if one["id"] not in good
        )
        assert {failure.code for failure in failures} == {"forbidden"}
        assert sum(job.indexed + job.skipped for job in done) == client.collection("c").documents == len(good)
        assert {key: client.document("c", key).text for key in good} == good


@pytest.mark.slow  # twenty starts of the server
@pytest.mark.timeout(900)
def test_kill_9_at_twenty_moments(process: Any, tiny_model: Path) -> None:
    # The encoder, which holds nothing that could be lost, lives on: each start would load torch and a model again.
    encoder = process("--role=encoder", f"--model={tiny_model}", "--threads=1", name="encoder")
    encoder.start()
    serving = process("--index-batch-documents=8", environment={"RET2_ENCODER_URL": encoder.url})
    serving.start().create_collection("c")
    kill = Kills(f"sqlite:///{serving.data_dir / 'ledger.sqlite'}", serving, seed=20)
    survive(serving.url, kill, 20)


@pytest.mark.slow  # twelve starts, and the leases of the dead: a minute
@pytest.mark.timeout(900)
def test_kill_9_of_api_and_indexer_on_one_postgresql(
    monkeypatch: pytest.MonkeyPatch,
    process: Any,
    tiny_model: Path,
    tmp_path: Path,
    postgres_url: str,
    qdrant: QdrantServer,  # noqa: F811
) -> None:
    # An api that died as it received documents has their key for another minute; the test does not wait for it, and takes another one.
    monkeypatch.setattr("service.client.client._in_progress", lambda response: False)
    encoder = process("--role=encoder", f"--model={tiny_model}", "--threads=1", name="encoder")
    encoder.start()
    shared = {
        "RET2_DATABASE_URL": postgres_url,
        "RET2_BLOBS_URL": str(tmp_path / "blobs"),
        "RET2_ENCODER_URL": encoder.url,
        "RET2_QDRANT_URL": qdrant.url,
        "RET2_QDRANT_API_KEY": qdrant.api_key,
        "RET2_QDRANT_PREFER_GRPC": "false",
        "RET2_INDEX_BATCH_DOCUMENTS": "8",
    }
    api, indexer = (process(f"--role={role}", name=role, environment=shared) for role in ("api", "indexer"))
    api.start().create_collection("c")
    indexer.start()
    kill = Kills(postgres_url.replace("postgresql:", "postgresql+psycopg:"), api, indexer, seed=6)
    survive(api.url, kill, 6)


def _planted(number: int) -> dict[str, Any]:
    document = {"id": f"d{number:04}", "text": f"red flag {number}"}
    return {**document, "image": {"url": "http://127.0.0.1:9/x.png"}} if number % 100 == 7 else document


def test_a_post_repeated_after_kill_9_doubles_nothing(serve: Any, documents: list[dict[str, Any]]) -> None:
    """The client never learnt that its request arrived: with the same key it gets the same job again."""
    few = documents[:100]
    client = serve.start()
    client.create_collection("atlas")
    (first,) = client.post_documents("atlas", few, idempotency_key="once")
    serve.send(signal.SIGKILL)
    client = serve.start()
    (second,) = client.post_documents("atlas", few, idempotency_key="once")
    assert first.job is not None
    assert second.job is not None
    assert second.job.id == first.job.id
    assert client.wait_job(first.job.id).state is JobState.SUCCEEDED
    assert len(client.jobs()) == 1
    assert client.collection("atlas").documents == 100


def test_sigterm_exits_0_and_keeps_what_was_accepted(serve: Any, documents: list[dict[str, Any]]) -> None:
    client = serve.start()
    client.create_collection("atlas")
    (posted,) = client.post_documents("atlas", documents[:130])
    assert serve.send(signal.SIGTERM) == 0, serve.tail()
    client = serve.start()
    assert posted.job is not None
    assert client.wait_job(posted.job.id).state is JobState.SUCCEEDED
    assert client.collection("atlas").documents == 130
    assert serve.send(signal.SIGTERM) == 0, serve.tail()


def test_the_same_load_again_embeds_nothing(serve: Any, documents: list[dict[str, Any]]) -> None:
    client = serve.start()
    client.create_collection("atlas")
    assert client.load("atlas", documents[:100]).indexed == 100
    again = client.load("atlas", documents[:100])
    assert (again.indexed, again.skipped, again.left) == (0, 100, 0)
    assert client.collection("atlas").documents == 100


def test_sigterm_while_the_model_is_loading_ends_it_at_once(serve: Any) -> None:
    serve.spawn()
    while "loading the model" not in serve.tail():
        time.sleep(0.01)
    assert serve.send(signal.SIGTERM) == 0, serve.tail()
    assert "stopping before the start" in serve.tail()
