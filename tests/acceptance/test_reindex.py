"""A collection changes its model under load and under `kill -9` (promise 9): real processes, two real tiny models.

All the while one thread searches and another writes and deletes. No search may fail or find vectors of two models; in the end
every generation holds the last accepted write of each document.
"""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tiny_model import CONFIG, WORDS, write_tiny_checkpoint

from indexer.domain.jobs import JobState
from model.errors import NotFound
from model.retriever import Retriever
from model.types import Float32, Input, Limits, Role
from service.client.client import Client

pytestmark = pytest.mark.timeout(600)
DOCUMENTS = 300
QUERY = "the red flag"


def text_of(number: int) -> str:
    """Different for each number, in the few words that the tiny tokeniser has."""
    return " ".join(WORDS[(number // len(WORDS) ** place) % len(WORDS)] for place in range(4))


@dataclass
class Models:
    """Two checkpoints whose vectors are of different sizes, and what each makes of the one query."""

    folders: tuple[Path, Path]
    queries: dict[int, Float32]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    folders = (
        write_tiny_checkpoint(folder / "old", CONFIG, seed=0),
        write_tiny_checkpoint(folder / "new", replace(CONFIG, name="tiny-2", output_size=12), seed=1),
    )
    queries = {}
    for each in folders:
        retriever = Retriever.load(str(each))
        (vector,) = retriever.launch([retriever.prepare(Input(QUERY), Role.QUERY, Limits())])().vectors
        queries[len(vector)] = np.asarray(vector)
    return Models(folders, queries)


@dataclass
class Load:
    """Searches and writes until it is stopped. A process that was killed is waited for; an answer must be right."""

    url: str
    queries: dict[int, Float32]
    wanted: dict[str, str]
    wrong: list[str] = field(default_factory=list)
    searches: int = 0
    writes: int = 0
    seen: set[int] = field(default_factory=set)  # sizes of vectors
    stop: threading.Event = field(default_factory=threading.Event)

    def search(self) -> None:
        body = {"collection": "c", "query": {"text": QUERY}, "limit": 20, "with_vector": True}
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.stop.is_set():
                try:
                    answer = http.post("/search", json=body)
                except httpx.TransportError:  # it was killed
                    time.sleep(0.05)
                    continue
                self._judge(answer)

    def _judge(self, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            self.wrong.append(f"{answer.status_code} {answer.text}")
            return
        hits = answer.json()["hits"]
        sizes = {len(hit["vector"]) for hit in hits}
        if len(hits) != 20 or len(sizes) != 1:
            self.wrong.append(f"{len(hits)} hits with vectors of {sizes}")
            return
        (size,) = sizes
        expected = [float(np.asarray(hit["vector"]) @ self.queries[size]) for hit in hits]
        if not np.allclose([hit["score"] for hit in hits], expected, atol=1e-3):
            self.wrong.append(f"scores of a query of another model than the {size} entries of the hits")
        self.searches += 1
        self.seen.add(size)

    def write(self) -> None:
        rng = random.Random(5)
        with Client(self.url, attempts=1000, give_up_after_s=300) as client:
            while not self.stop.is_set():
                key, text = f"d{rng.randrange(DOCUMENTS)}", text_of(rng.randrange(10_000))
                if rng.random() < 0.3:
                    client.delete_documents("c", [key])
                    self.wanted.pop(key, None)
                else:
                    client.post_documents("c", [{"id": key, "text": text, "metadata": {"n": self.writes}}])
                    self.wanted[key] = text
                self.writes += 1
                time.sleep(0.02)


@contextlib.contextmanager
def under_load(url: str, models: Models, wanted: dict[str, str]) -> Iterator[Load]:
    load = Load(url, models.queries, wanted)
    threads = [threading.Thread(target=work) for work in (load.search, load.write)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(120)


@pytest.fixture(scope="module")
def encoder(lasting: Any, models: Models) -> Any:
    """Both models, in a process of its own that lives on: it holds nothing that could be lost, and each start of it
    would load torch and the models again."""
    old, new = models.folders
    encoder = lasting("--role=encoder", f"--model=tiny={old}", f"--model=tiny-2={new}", "--threads=1", name="encoder")
    encoder.start()
    return encoder


@pytest.fixture
def serve(process: Any, encoder: Any) -> Any:
    return process(
        "--index-batch-documents=8",
        "--request-timeout-s=20",
        environment={"RET2_ENCODER_URL": encoder.url},
    )


def begin(serve: Any) -> tuple[Client, dict[str, str]]:
    client = serve.start()
    deadline = time.monotonic() + 60
    while any(model.state != "ready" for model in client.info().models):  # of several, one is enough to be ready
        assert time.monotonic() < deadline, client.info().models
        time.sleep(0.05)
    wanted = {f"d{number}": text_of(number) for number in range(DOCUMENTS)}
    client.create_collection("c")
    loaded = client.load("c", [{"id": key, "text": text} for key, text in wanted.items()])
    assert loaded.indexed == DOCUMENTS
    return client, wanted


def settle(client: Client) -> None:
    for job in client.jobs(limit=500):
        if job.kind != "reindex":
            client.wait_job(job.id)


def state(client: Client) -> str:
    try:
        return client.generations("c").state
    except NotFound:
        return "gone"


def wait_for(client: Client, *states: str, timeout_s: float = 180) -> str:
    deadline = time.monotonic() + timeout_s
    while (found := state(client)) not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def contents(client: Client) -> dict[str, str]:
    hits = client.search("c", text=QUERY, limit=1000).hits
    assert len({hit.id for hit in hits}) == len(hits)
    return {hit.id: hit.text or "" for hit in hits}


def test_reindex_under_load_and_kill_9(serve: Any, models: Models) -> None:
    client, wanted = begin(serve)
    with under_load(serve.url, models, wanted) as load:
        job = client.reindex("c")
        while client.job(job.id).indexed < DOCUMENTS // 4:  # in the middle of the fill
            time.sleep(0.02)
        serve.send(signal.SIGKILL)
        client = serve.start()
        wait_for(client, "switching", "kept")  # right around the switch
        serve.send(signal.SIGKILL)
        client = serve.start()
        wait_for(client, "kept")
        serve.send(signal.SIGKILL)
        client = serve.start()
        before = load.searches
        while load.searches < before + 10:
            time.sleep(0.05)
    settle(client)
    assert load.wrong == []
    assert load.seen == {16, 12}
    done = client.job(job.id)
    assert done.state is JobState.SUCCEEDED
    assert done.accepted == done.indexed + done.skipped
    assert client.collection("c").model == "tiny-2"
    assert contents(client) == wanted

    with under_load(serve.url, models, wanted) as load:
        client.roll_back_reindex("c")
        wait_for(client, "rolling_back", "dropping")
        serve.send(signal.SIGKILL)
        client = serve.start()
        wait_for(client, "dropping", "gone")
        before = load.searches
        while load.searches < before + 10:
            time.sleep(0.05)
    settle(client)
    assert load.wrong == []
    assert client.collection("c").model == "tiny"
    assert contents(client) == wanted
    wait_for(client, "gone")
    assert [each.name for each in (serve.data_dir / "index").iterdir() if not each.name.startswith(".")] == ["c"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(serve: Any, models: Models, seed: int) -> None:
    rng = random.Random(seed)
    client, wanted = begin(serve)
    with under_load(serve.url, models, wanted) as load:
        job = client.reindex("c")
        for _ in range(6):
            time.sleep(rng.uniform(0.0, 3.0))
            serve.send(signal.SIGKILL)
            client = serve.start()
        wait_for(client, "kept")
    settle(client)
    assert load.wrong == []
    assert client.job(job.id).state is JobState.SUCCEEDED
    assert contents(client) == wanted
