"""What a job needs goes away while it runs, and comes back: it waits, says so, and completes, exactly (promise 3). Real processes."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_proxy import Fault, FaultProxy, proxy_of
from postgres_server import PostgresServer
from tiny_model import WORDS

from indexer.records import Job, JobState
from model.errors import DependencyUnavailable
from service.client import Client

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


def posted(client: Client, count: int) -> list[str]:
    client.create_collection("c")
    return [one.job.id for one in client.post_documents("c", documents(count)) if one.job]


def begun(client: Client) -> bool:
    """In the middle: some of it is indexed, most of it is not."""
    return 0 < client.collection("c").documents < DOCUMENTS


def check_exact(client: Client, jobs: list[str]) -> None:
    done = [client.wait_job(job, timeout_s=PATIENCE_S) for job in jobs]
    assert {job.state for job in done} == {JobState.SUCCEEDED}
    assert sum(job.indexed + job.skipped for job in done) == DOCUMENTS
    assert client.collection("c").documents == DOCUMENTS
    some = [hit.id for hit in client.search("c", text="red flag", limit=1000).hits]
    assert len(set(some)) == len(some) == 1000


@pytest.fixture
def encoder(process: Any, tiny_model: Path) -> Iterator[FaultProxy]:
    """An encoder process behind a proxy."""
    behind = process("--role=encoder", f"--model={tiny_model}", "--threads=1", name="encoder")
    behind.start()
    with proxy_of(behind.port) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.SILENT, Fault.CUT])
def test_an_encoder_that_goes_away_and_comes_back(fault: Fault, process: Any, encoder: FaultProxy) -> None:
    flags = ("--index-batch-documents=16", "--index-concurrency=1", "--encoder-timeout-s=1", "--encoder-attempts=1")
    client: Client = process(f"--encoder-url={encoder.url}", *flags).start()
    jobs = posted(client, DOCUMENTS)
    until(lambda: begun(client))
    encoder.set(fault)

    def waiting() -> list[Job]:
        return [job for job in map(client.job, jobs) if job.state is JobState.WAITING]

    until(lambda: bool(waiting()))
    assert all(job.waiting_on and "encoder" in job.waiting_on for job in waiting())
    stood = client.collection("c").documents
    time.sleep(1)
    assert client.collection("c").documents == stood < DOCUMENTS, "nothing is done, and nothing is given up"
    assert sum(client.job(job).failed for job in jobs) == 0
    encoder.set(Fault.NONE)
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
            with pytest.raises(DependencyUnavailable, match="database does not answer"):
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
