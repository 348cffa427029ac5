"""A flood of probes: the checks behind /readyz run for all of them at once, and searches go on beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from fake_runtime import FakeRuntime
from threaded_server import serving

from service.components import Parts
from service.settings import Settings
from service.wiring import build

CONNECTIONS = 60


@contextmanager
def counted(folder: Path, runs: list[int]) -> Iterator[str]:
    """The address of a service; `runs` has an entry for each ping of its store."""

    def built() -> Parts:
        parts = build(Settings(data_dir=folder), FakeRuntime())
        ping: Callable[[], object] = parts.store.ping

        async def counting() -> None:
            runs.append(1)
            await ping()  # type: ignore[misc]

        parts.store.ping = counting  # type: ignore[method-assign]
        return parts

    with serving(built) as url:
        yield url


def test_many_connections_that_probe_cost_few_checks_and_no_search(tmp_path: Path) -> None:
    runs: list[int] = []
    over = threading.Event()

    def probe(url: str) -> list[int]:
        statuses = []
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as caller:
            while not over.is_set():
                statuses.append(caller.get("/readyz").status_code)
        return statuses

    with counted(tmp_path, runs) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        http.put("/collections/c")
        http.post("/collections/c/documents?wait=true", json=[{"id": "d", "text": "red"}])
        runs.clear()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            probes = [pool.submit(probe, url) for _ in range(CONNECTIONS)]
            try:
                for _ in range(15):
                    answer = http.post("/search", json={"collection": "c", "query": {"text": "red"}})
                    assert answer.json()["hits"][0]["id"] == "d"
            finally:
                over.set()
        statuses = [status for one in probes for status in one.result()]
    assert set(statuses) == {200}
    assert len(statuses) >= CONNECTIONS
    assert len(runs) < len(statuses) / 5, f"{len(runs)} checks for {len(statuses)} probes"
