"""The disk of the data folder runs full while documents come, and has room again later, without a restart."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def documents(batch: int) -> list[dict[str, Any]]:
    text = "word " * 400
    return [{"id": f"d{batch}-{number}", "text": f"{batch} {number} {text}"} for number in range(20)]


def test_what_was_accepted_is_indexed_once_there_is_room_again(
    process: Any, tiny_model: Path, small_disk: Path
) -> None:
    server = process(f"--data-dir={small_disk / 'data'}", f"--model={tiny_model}")
    server.start()
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        assert http.put("/collections/things").status_code == 201
        path = "/collections/things/documents"
        first = http.post(f"{path}?wait=true", json=[{"id": "first", "text": "first"}])
        assert first.json()["results"][0]["status"] == "indexed"
        free = os.statvfs(small_disk)
        filler = small_disk / "filler"
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - MIB))

        answers = [(batch, http.post(path, json=documents(batch))) for batch in range(60)]
        accepted = [batch for batch, answer in answers if answer.status_code == 202]
        refused = [answer for _, answer in answers if answer.status_code != 202]
        assert accepted
        assert refused
        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "dependency_unavailable")}
        ledger = small_disk / "data" / "ledger.sqlite"
        assert all(f"ledger {ledger}: the disk" in answer.json()["detail"] for answer in refused)
        assert http.get("/livez").status_code == 200
        query = {"collection": "things", "query": {"text": "first"}}
        assert http.post("/search", json=query).json()["hits"][0]["id"] == "first"

        filler.unlink()
        until(lambda: http.get("/readyz").status_code == 200, "ready again")
        until(lambda: http.get("/collections/things").json()["pending"] == 0, "nothing waits any more")
        for batch in accepted:
            for document in documents(batch):
                assert http.get(f"{path}/{document['id']}").json()["text"] == document["text"]
        after = http.post(f"{path}?wait=true", json=[{"id": "after", "text": "after"}])
        assert after.json()["results"][0]["status"] == "indexed"
        assert all(job["failed"] == 0 for job in http.get("/jobs?limit=100").json()["jobs"])
    assert "Traceback" not in server.log.read_text()


def test_a_job_says_that_its_store_has_no_room(process: Any, tiny_model: Path, small_disk: Path) -> None:
    """The ledger is elsewhere here, and has room: what was accepted waits for the disk of the index alone."""
    data, ledger = small_disk / "data", small_disk.parent / "ledger.sqlite"
    data.mkdir()
    ledger.touch()
    (data / "ledger.sqlite").symlink_to(ledger)
    server = process(f"--data-dir={data}", f"--model={tiny_model}")
    server.start()
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        http.put("/collections/things")
        path = "/collections/things/documents"
        http.post(f"{path}?wait=true", json=[{"id": "first", "text": "first"}])
        free = os.statvfs(small_disk)
        filler = small_disk / "filler"
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 2**16))
        job = http.post(path, json=documents(0)).json()["job"]["id"]

        until(lambda: bool(http.get(f"/jobs/{job}").json()["waiting_on"]), "the job says what it waits for")
        assert "disk is full" in http.get(f"/jobs/{job}").json()["waiting_on"]
        filler.unlink()
        until(lambda: http.get(f"/jobs/{job}").json()["state"] == "succeeded", "it goes on by itself")
        assert http.get(f"/jobs/{job}").json()["indexed"] == 20
