"""A streamed body of any length, with bad lines in it, does not grow the memory of the server, a real process."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from service.client.client import Client

MIB = 2**20
LINE_BYTES = 10_000
BAD_EVERY = 100


def lines(size_bytes: int, seen: list[int], pid: int) -> Iterator[bytes]:
    """So many bytes of NDJSON, one line in a hundred bad. `seen` gets the server's memory now and then."""
    padding = "x" * (LINE_BYTES - 80)
    for number in range(size_bytes // LINE_BYTES):
        document = {"id": f"d{number}", "text": "red flag", "metadata": {"padding": padding}}
        yield (b'{"id": 7}' if number % BAD_EVERY == 0 else orjson.dumps(document)) + b"\n"
        if number % 500 == 0:
            seen.append(resident_bytes(pid))


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    "size_bytes",
    [
        pytest.param(100 * MIB, marks=pytest.mark.timeout(300)),
        pytest.param(1024 * MIB, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_a_long_stream_is_taken_in_constant_memory(size_bytes: int, process: Any, tiny_model: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc, where the memory of a process is told")
    serving = process(f"--model={tiny_model}", "--threads=1", "--index-concurrency=1")
    client: Client = serving.start()
    client.create_collection("c")
    client.load("c", [{"id": "first", "text": "red flag"}])
    seen: list[int] = []
    headers = {"content-type": "application/x-ndjson"}
    with httpx.Client(base_url=serving.url, timeout=600, trust_env=False) as http:
        body = lines(size_bytes, seen, serving.pid)
        answer = http.post("/collections/c/documents", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    count = size_bytes // LINE_BYTES
    bad = [one["position"] for one in answer.json()["rejected"]]
    assert bad == list(range(0, count, BAD_EVERY))
    assert {one["code"] for one in answer.json()["rejected"]} == {"invalid_input"}
    assert answer.json()["job"]["accepted"] == count - len(bad)
    settled, grown = max(seen[: len(seen) // 5]), max(seen)
    print(f"memory: {settled / MIB:.0f} MiB after a fifth of the stream, {grown / MIB:.0f} MiB at most")
    assert grown - settled < 48 * MIB, "of a batch and the rejections alone"
    job = client.job(answer.json()["job"]["id"])
    deadline = time.monotonic() + 60
    while not (
        job := client.job(job.id)
    ).indexed:  # it was accepted, and is being worked on; all of it would take minutes
        assert time.monotonic() < deadline
        time.sleep(0.1)
