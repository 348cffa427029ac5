"""A process that may open no more files or connections: calls fail with an error, nothing is answered wrongly, and all goes on
once there is room."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.timeout(300)
SPARE = 4


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def store_processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    tasks = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    programs = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in {*children, *tasks}}
    return [child for child, program in programs.items() if b"indexer.store.edge.process" in program]


def test_no_descriptor_is_left_and_then_there_are_some_again(process: Any, tiny_model: Path) -> None:
    serving = process(f"--model={tiny_model}", "--threads=1")
    serving.start()
    documents = [{"id": f"d{number:02}", "text": f"red flag {number}"} for number in range(30)]
    query = {"collection": "c", "query": {"text": "red flag 7"}, "limit": 30}

    with ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=serving.url, timeout=20, trust_env=False))
        assert http.put("/collections/c").status_code == 201
        assert http.post("/collections/c/documents?wait=true", json=documents).status_code == 200
        right = [hit["id"] for hit in http.post("/search", json=query).json()["hits"]]
        assert len(right) == 30

        limits = resource.prlimit(serving.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(serving.pid, resource.RLIMIT_NOFILE, (descriptors(serving.pid) + SPARE, limits[1]))
        try:
            with ExitStack() as crowd:
                for _ in range(3 * SPARE):
                    crowd.enter_context(socket.create_connection(("127.0.0.1", serving.port)))
                for child in store_processes(serving.pid):
                    # Another one needs pipes.
                    os.kill(child, signal.SIGKILL)
                codes = set()
                for number in range(8):
                    with httpx.Client(base_url=serving.url, timeout=1, trust_env=False) as newcomer:
                        for caller in (http, newcomer):
                            try:
                                answer = caller.post("/search", json=query)
                            except httpx.TransportError as error:
                                codes.add(type(error).__name__)
                                continue
                            codes.add(str(answer.status_code))
                            if answer.status_code == 200:
                                assert [hit["id"] for hit in answer.json()["hits"]] == right, number
                            else:
                                assert answer.status_code in (429, 503, 504), answer.text
                assert codes - {"200"}, "the limit was not felt"
        finally:
            resource.prlimit(serving.pid, resource.RLIMIT_NOFILE, limits)

        def searched() -> bool:
            try:
                answer = http.post("/search", json=query)
            except httpx.TransportError:
                return False
            return answer.status_code == 200 and [hit["id"] for hit in answer.json()["hits"]] == right

        until(searched, f"searches again, after {codes}:\n{serving.tail()}")
        late = http.post("/collections/c/documents?wait=true", json=[{"id": "late", "text": "red flag"}])
        assert late.json()["results"][0]["status"] == "indexed"
        assert http.get("/livez").status_code == http.get("/readyz").status_code == 200
    assert serving.send(signal.SIGTERM) == 0
