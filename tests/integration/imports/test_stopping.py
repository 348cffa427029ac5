"""An import that is inside one line hears that its job is cancelled and that the process ends, within a second."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard


async def _begin(serve: Callable[..., Any], tmp_path: Path) -> tuple[Any, str]:
    """A job that unpacks one line of 512 GiB, of which the first gigabytes take some seconds."""
    zeros = zstandard.ZstdCompressor(3).compress(b"\0" * 2**27)
    (tmp_path / "zeros.jsonl.zst").write_bytes(zeros * 4096)
    served = await serve(import_roots=str(tmp_path))
    await served.client.put("/collections/flags")
    answer = await served.client.post("/collections/flags/imports", json={"uri": str(tmp_path / "zeros.jsonl.zst")})
    job_id: str = answer.json()["job"]["id"]
    while (await served.client.get(f"/jobs/{job_id}")).json()["state"] != "running":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    return served, job_id


async def test_cancel_is_heard_inside_one_line(serve: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("model.records.jsonl.MAX_SKIPPED_BYTES", 2**60)
    served, job_id = await _begin(serve, tmp_path)
    began = time.monotonic()
    await served.client.post(f"/jobs/{job_id}/cancel")
    await served.parts.progress.wait(job_id, 20)
    assert (await served.client.get(f"/jobs/{job_id}")).json()["state"] == "cancelled"
    assert time.monotonic() - began < 10


async def test_other_imports_go_on_beside_one_line(serve: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    """There is one reader. While a read of it is slow, other jobs have another."""
    monkeypatch.setattr("model.records.jsonl.MAX_SKIPPED_BYTES", 2**60)
    served, job_id = await _begin(serve, tmp_path)
    for name in ("second", "third"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": "a line"}) + "\n")
        answer = await served.client.post("/collections/flags/imports", json={"uri": str(tmp_path / f"{name}.jsonl")})
        second_id = answer.json()["job"]["id"]
        await served.parts.progress.wait(second_id, 20)
        assert (await served.client.get(f"/jobs/{second_id}")).json()["indexed"] == 1
    assert (await served.client.get(f"/jobs/{job_id}")).json()["state"] == "running"
    importer = served.parts.worker.chores[0]
    assert importer._slow_jobs == [job_id]
    await served.client.post(f"/jobs/{job_id}/cancel")
    await served.parts.progress.wait(job_id, 20)
    assert importer._slow_jobs == []


async def test_the_thread_ends_with_its_reader(serve: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    """The interpreter waits for its threads when it exits."""
    monkeypatch.setattr("model.records.jsonl.MAX_SKIPPED_BYTES", 2**60)
    served, _ = await _begin(serve, tmp_path)
    importer = served.parts.worker.chores[0]
    threads = list(importer._threads._threads)
    assert any(thread.is_alive() for thread in threads)
    began = time.monotonic()
    await served.parts.worker.stop()
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert time.monotonic() - began < 10
    assert not any(thread.is_alive() for thread in threads)
