"""What a job needs goes away while it runs, and comes back: it waits, says so, and completes, exactly (promise 3). Real processes."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fault_proxy import Fault, FaultProxy, proxy_of
from postgres_server import PostgresServer
from qdrant_server import QdrantServer, qdrant  # noqa: F401 - a fixture
from tiny_model import WORDS

from indexer.domain.jobs import Job, JobState
from model.errors import DependencyUnavailable
from service.client.client import Client

pytestmark = pytest.mark.timeout(400)
DOCUMENTS = 1_500
PATIENCE_S = 120.0


def documents(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        words = (WORDS[(number // len(WORDS) ** place) % len(WORDS)] for place in range(4))
        yield {"id": f"d{number}", "text": " ".join(words), "metadata": {"number": number}}


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def posted(client: Client, count: int, collection: str = "c") -> list[str]:
    client.create_collection(collection)
    return [one.job.id for one in client.post_documents(collection, documents(count)) if one.job]


def begun(client: Client) -> bool:
    """In the middle: some of it is indexed, most of it is not."""
    return 0 < client.collection("c").documents < DOCUMENTS


def waiting(client: Client, jobs: list[str]) -> list[Job]:
    return [job for job in map(client.job, jobs) if job.state is JobState.WAITING]


def check_exact(client: Client, jobs: list[str], collection: str = "c", count: int = DOCUMENTS) -> None:
    done = [client.wait_job(job, timeout_s=PATIENCE_S) for job in jobs]
    assert {job.state for job in done} == {JobState.SUCCEEDED}
    assert sum(job.indexed + job.skipped for job in done) == count
    assert client.collection(collection).documents == count
    some = [hit.id for hit in client.search(collection, text="red flag", limit=1000).hits]
    assert len(set(some)) == len(some) == min(count, 1000)


@pytest.fixture
def encoder(process: Any, tiny_model: Path) -> Iterator[FaultProxy]:
    """An encoder process behind a proxy."""
    behind = process("--role=encoder", f"--model={tiny_model}", "--threads=1", name="encoder")
    behind.start()
    with proxy_of(behind.port) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.SILENT, Fault.CUT, Fault.BUSY, Fault.BAD_GATEWAY])
def test_an_encoder_that_goes_away_and_comes_back(fault: Fault, process: Any, encoder: FaultProxy) -> None:
    flags = ("--index-batch-documents=16", "--index-concurrency=1", "--encoder-timeout-s=1", "--encoder-attempts=1")
    client: Client = process(f"--encoder-url={encoder.url}", *flags).start()
    jobs = posted(client, DOCUMENTS)
    until(lambda: begun(client))
    encoder.set(fault)

    until(lambda: bool(waiting(client, jobs)))
    assert all(job.waiting_on and "encoder" in job.waiting_on for job in waiting(client, jobs))
    stood = client.collection("c").documents
    time.sleep(1)
    assert client.collection("c").documents == stood < DOCUMENTS, "nothing is done, and nothing is given up"
    assert sum(client.job(job).failed for job in jobs) == 0
    encoder.set(Fault.NONE)
    check_exact(client, jobs)


def test_an_encoder_that_is_killed_and_started_again(process: Any, tiny_model: Path) -> None:
    encoder = process("--role=encoder", f"--model={tiny_model}", "--threads=1", name="encoder")
    encoder.start()
    flags = ("--index-batch-documents=16", "--index-concurrency=1")
    client: Client = process(f"--encoder-url={encoder.url}", *flags).start()
    jobs = posted(client, DOCUMENTS)
    until(lambda: begun(client))
    encoder.send(signal.SIGKILL)
    assert begun(client), "it was over before the kill"
    until(lambda: bool(waiting(client, jobs)))
    assert all(job.waiting_on and encoder.url in job.waiting_on for job in waiting(client, jobs))
    encoder.start()
    check_exact(client, jobs)


@pytest.fixture(scope="module")
def over_qdrant(lasting: Any, tiny_model: Path, qdrant: QdrantServer) -> Iterator[tuple[Client, FaultProxy]]:  # noqa: F811
    """A service whose Qdrant is behind a proxy; each test has a collection of its own."""
    with proxy_of(urlsplit(qdrant.url).port or 0) as proxy:
        serving = lasting(
            f"--model={tiny_model}",
            "--threads=1",
            "--index-batch-documents=4",
            "--index-concurrency=1",
            f"--qdrant-url={proxy.url}",
            "--no-qdrant-prefer-grpc",
            "--qdrant-timeout-s=1",
            name="over-qdrant",
            environment={"RET2_QDRANT_API_KEY": qdrant.api_key},
        )
        yield serving.start(), proxy


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.SILENT, Fault.CUT, Fault.UNAVAILABLE, Fault.BUSY])
def test_a_qdrant_that_goes_away_and_comes_back(fault: Fault, over_qdrant: tuple[Client, FaultProxy]) -> None:
    client, proxy = over_qdrant
    count = 400
    jobs = posted(client, count, fault)
    until(lambda: client.job(jobs[0]).indexed > 0)
    proxy.set(fault)
    try:
        until(lambda: bool(waiting(client, jobs)))
        assert all(job.waiting_on and "Qdrant" in job.waiting_on for job in waiting(client, jobs))
        assert sum(client.job(job).failed for job in jobs) == 0
        assert sum(client.job(job).indexed for job in jobs) < count
    finally:
        proxy.set(Fault.NONE)
    check_exact(client, jobs, fault, count)


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.CUT])
def test_a_postgresql_whose_connections_fail_mid_job(
    fault: Fault, process: Any, tiny_model: Path, postgres: PostgresServer, postgres_url: str
) -> None:
    with proxy_of(postgres.port) as proxy:
        url = postgres_url.replace(f":{postgres.port}/", f":{proxy.port}/")
        flags = (f"--model={tiny_model}", "--threads=1", "--index-batch-documents=16")
        serving = process(*flags, environment={"RET2_DATABASE_URL": url})
        client: Client = serving.start()
        jobs = posted(client, DOCUMENTS)
        until(lambda: begun(client))
        proxy.set(fault)
        time.sleep(2)  # of work that nobody can claim or finish
        proxy.set(Fault.NONE)
        until(client.ready)
        check_exact(client, jobs)


def test_a_postgresql_that_goes_away_and_comes_back(
    process: Any, tiny_model: Path, postgres: PostgresServer, postgres_url: str
) -> None:
    serving = process(
        f"--model={tiny_model}",
        "--threads=1",
        "--index-batch-documents=16",
        environment={"RET2_DATABASE_URL": postgres_url},
    )
    client: Client = serving.start()
    jobs = posted(client, DOCUMENTS)
    until(lambda: begun(client))
    postgres.stop()
    try:
        impatient = Client(serving.url, attempts=1)
        until(lambda: not impatient.ready())
        for call in (lambda: impatient.job(jobs[0]), lambda: impatient.post_documents("c", islice(documents(9), 3))):
            with pytest.raises(DependencyUnavailable, match=r"database .* does not answer"):
                call()
        assert httpx.get(f"{serving.url}/livez", trust_env=False).status_code == 200, "a restart would not help"
        impatient.close()
        time.sleep(1)
    finally:
        postgres.start()
    until(client.ready)
    check_exact(client, jobs)
    assert "not-for-any-log" not in serving.log.read_text()


def test_a_postgresql_that_hangs_holds_up_no_search(
    process: Any, tiny_model: Path, postgres: PostgresServer, postgres_url: str
) -> None:
    """A search reads the collection's row; nobody waits for a silent database longer than for any other request."""
    with proxy_of(postgres.port) as proxy:
        url = postgres_url.replace(f":{postgres.port}/", f":{proxy.port}/")
        serving = process(
            f"--model={tiny_model}", "--threads=1", "--request-timeout-s=3", environment={"RET2_DATABASE_URL": url}
        )
        client: Client = serving.start()
        jobs = posted(client, 50)
        client.wait_job(jobs[0])
        proxy.set(Fault.SILENT)
        began = time.monotonic()
        with suppress(DependencyUnavailable), Client(serving.url, attempts=1) as impatient:
            impatient.search("c", text="red")
        assert time.monotonic() - began < 60, "it was answered, well or not"
        proxy.set(Fault.NONE)
        until(client.ready)
        assert client.search("c", text="red").hits
