"""How fast `ret2 serve` answers on this machine: `make bench`. It starts a service over ./data, fills it with atlas, and measures
over HTTP, client included. Every search carries other input, so that nothing is answered twice from a cache of anybody.
"""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model.atlas import Atlas
from model.evaluate import Carries, Question, questions
from service.client import Client
from service.demo import COLLECTION, fill, running_service

WARM_UP_S = 2.0
MEASURED_S = 10.0
CONNECTIONS = (1, 8)


def main() -> None:
    console, atlas = Console(), Atlas.read()
    with running_service(console, 8080, Path("data")) as url, Client(url) as client:
        fill(client, atlas, console)
        model = client.info().model.name
        title = f"/search, {model}, {client.collection(COLLECTION).documents:,} documents, {os.cpu_count()} cores, {platform.machine()}"
        table = Table(
            "query", "connections", "searches/s", "p50 ms", "p95 ms", "p99 ms", title=title, title_justify="left"
        )
        for carries, connections in itertools.product(Carries, CONNECTIONS):
            asked = questions(atlas, carries, Carries.BOTH)
            with console.status(f"{carries}, {connections} connections"):
                measure(client, asked, connections, WARM_UP_S)
                times_ms, seconds = measure(client, asked, connections, MEASURED_S)
            percentiles = (f"{value:.1f}" for value in np.percentile(times_ms, (50, 95, 99)))
            table.add_row(carries, str(connections), f"{len(times_ms) / seconds:.1f}", *percentiles)
    console.print(table)


def measure(client: Client, asked: list[Question], connections: int, seconds: float) -> tuple[list[float], float]:
    """(milliseconds of each search, seconds it all took)."""
    source = itertools.cycle(asked)
    began = time.perf_counter()

    def one_connection(_: int) -> list[float]:
        return list(_searches(client, source, began + seconds))

    with ThreadPoolExecutor(connections) as pool:
        times_ms = [one for run in pool.map(one_connection, range(connections)) for one in run]
    return times_ms, time.perf_counter() - began


def _searches(client: Client, source: Iterator[Question], until: float) -> Iterator[float]:
    while (start := time.perf_counter()) < until:
        content = next(source).content
        client.search(COLLECTION, content.text, content.image, limit=10)
        yield (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
