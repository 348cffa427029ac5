"""What was accepted survives `kill -9`, and is there once (promise 3); SIGTERM ends a service in order."""

import random
import signal
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from indexer.records import JobState
from model.atlas import Atlas
from service.client import Client
from service.demo import atlas_documents

pytestmark = pytest.mark.timeout(300)
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


@pytest.mark.slow  # four starts of the real model
def test_kill_9_again_and_again(serve: Any, documents: list[dict[str, Any]]) -> None:
    client = serve.start()
    client.create_collection("atlas")
    (posted,) = client.post_documents("atlas", documents, max_documents=PART)
    assert posted.job is not None
    for share in (0.1, 0.4, 0.7):
        wait_for(client, int(PART * share))
        serve.send(signal.SIGKILL)
        client = serve.start()
    assert client.wait_job(posted.job.id).state is JobState.SUCCEEDED
    assert sorted(found_ids(client)) == sorted(document["id"] for document in documents)


@pytest.mark.slow  # twenty starts of the server
@pytest.mark.timeout(900)
def test_kill_9_at_twenty_moments(process: Any, tiny_model: Path, tmp_path: Path) -> None:
    """5,000 documents, posted and indexed while the server is killed at random moments: none is lost, none is there twice, and
    failures are those planted: one in a hundred refers to an image that nobody may fetch."""
    serving = process(f"--model={tiny_model}", "--threads=1", "--index-batch-documents=16")
    chance = random.Random(20)
    kills, part = 20, 250
    jobs: list[str] = []
    serving.start().create_collection("c")
    for kill in range(kills):
        client = Client(serving.url, attempts=1_000, give_up_after_s=300)
        killer = threading.Timer(chance.uniform(0.0, 1.5), serving.send, [signal.SIGKILL])
        killer.start()
        restarted = threading.Thread(target=lambda timer=killer: (timer.join(), serving.start()))
        restarted.start()
        documents = [_planted(number) for number in range(kill * part, (kill + 1) * part)]
        posted = client.post_documents("c", documents, idempotency_key=f"part-{kill}", max_documents=25)
        jobs += [one.job.id for one in posted if one.job is not None]
        restarted.join()
        client.close()
    client = Client(serving.url)
    done = [client.wait_job(job) for job in jobs]
    assert len(set(jobs)) == len(client.jobs(limit=1000)) == kills * part // 25
    assert sum(job.accepted for job in done) == kills * part
    failures = [failure for job in done for failure in client.failures(job.id)]
    planted = sorted(one["id"] for one in map(_planted, range(kills * part)) if "image" in one)
    assert sorted(failure.document_id for failure in failures) == planted
    assert {failure.code for failure in failures} == {"forbidden"}
    assert sum(job.indexed + job.skipped for job in done) == client.collection("c").documents == 4_950
    for document in map(_planted, range(kills * part)):
        if "image" not in document:
            assert client.document("c", document["id"])["text"] == document["text"]
    client.close()


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
