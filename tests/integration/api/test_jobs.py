"""Jobs over HTTP: cancelled, tried again, followed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

BATCH = 64


async def job_of(served: Any, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = (await served.client.get(f"/jobs/{job_id}")).json()
    return job


async def posted(served: Any, count: int, prefix: str = "doc") -> str:
    await served.client.put("/collections/flags")
    documents = [{"id": f"{prefix}-{number}", "text": f"red {number}"} for number in range(count)]
    response = await served.client.post("/collections/flags/documents", json=documents)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["job"]["id"]
    return job_id


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - of another thread and of the ledger
            await asyncio.sleep(0.01)


def done(job: dict[str, Any]) -> int:
    return int(job["indexed"] + job["skipped"] + job["failed"] + job["cancelled"])


async def test_cancel_stops_within_a_batch_and_says_what_was_done(served: Any, runtime: Any) -> None:
    runtime.gate.clear()
    job_id = await posted(served, 10 * BATCH)
    await until(lambda: asyncio.to_thread(lambda: bool(runtime.batches)))
    answer = await served.client.post(f"/jobs/{job_id}/cancel")
    assert answer.status_code == 200
    assert answer.json()["cancelled"] > 0
    runtime.gate.set()

    async def ended() -> bool:
        return bool((await job_of(served, job_id))["state"] == "cancelled")

    await until(ended)
    job = await job_of(served, job_id)
    assert done(job) == job["accepted"] == 10 * BATCH
    assert 0 < job["indexed"] <= 4 * BATCH, "what was in hand was finished, and no more was begun"
    assert (await served.client.get("/collections/flags")).json()["documents"] == job["indexed"]
    again = await served.client.post(f"/jobs/{job_id}/cancel")
    assert again.json() == job, "what is finished stays as it is"
    await served.load({"id": "after", "text": "red"})


async def test_retry_is_of_what_failed_alone_and_once(served: Any) -> None:
    unreachable = {"url": "http://127.0.0.1:9/x.png"}
    first = await served.load({"id": "good", "text": "red"}, {"id": "bad", "text": "blue", "image": unreachable})
    job_id = first["job"]["id"]
    assert first["job"]["failed"] == 1
    answer = await served.client.post(f"/jobs/{job_id}/retry")
    assert answer.status_code == 202
    retried = answer.json()["job"]
    assert (retried["accepted"], retried["retry_of"]) == (1, job_id)
    assert (await served.client.post(f"/jobs/{job_id}/retry")).json()["job"]["id"] == retried["id"]

    async def finished() -> bool:
        return bool((await job_of(served, retried["id"]))["state"] == "failed")

    await until(finished)
    (failure,) = (await served.client.get(f"/jobs/{retried['id']}/failures")).json()["failures"]
    assert failure["id"] == "bad"


async def test_there_is_nothing_to_retry(served: Any) -> None:
    job_id = (await served.load({"id": "good", "text": "red"}))["job"]["id"]
    refused = await served.client.post(f"/jobs/{job_id}/retry")
    assert refused.status_code == 409
    assert "nothing to try again" in refused.json()["detail"]


async def test_events_follow_a_job_to_its_end(served: Any, runtime: Any) -> None:
    runtime.gate.clear()
    job_id = await posted(served, 3 * BATCH)
    stream = asyncio.ensure_future(served.client.get(f"/jobs/{job_id}/events"))
    await asyncio.sleep(0.3)
    assert not stream.done()
    runtime.gate.set()
    async with asyncio.timeout(20):
        response = await stream
    assert response.headers["content-type"].startswith("text/event-stream")
    jobs = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data:")]
    assert jobs[0]["state"] in ("queued", "running")
    assert (jobs[-1]["state"], jobs[-1]["indexed"]) == ("succeeded", 3 * BATCH)
    assert [done(job) for job in jobs] == sorted(done(job) for job in jobs)


async def test_events_end_when_the_process_does(served: Any, runtime: Any) -> None:
    runtime.gate.clear()
    job_id = await posted(served, 1)
    stream = asyncio.ensure_future(served.client.get(f"/jobs/{job_id}/events"))
    await asyncio.sleep(0.1)
    served.parts.draining.set()
    async with asyncio.timeout(10):
        assert (await stream).status_code == 200
    runtime.gate.set()


@pytest.mark.parametrize("call", ["POST cancel", "POST retry", "GET events"])
async def test_a_job_that_is_not_there(served: Any, call: str) -> None:
    method, name = call.split()
    response = await served.client.request(method, f"/jobs/unknown/{name}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
