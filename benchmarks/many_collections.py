"""`python -m benchmarks.many_collections [2000]`: what so many collections of one document cost in Qdrant Edge.

The service is real: `ret2 serve` with a model of toy size. It is stopped and started between filling and listing, as after an upgrade.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np

from benchmarks.checkpoints import Fusion, ret2_folder
from benchmarks.figures import percentile
from benchmarks.machine import Machine
from benchmarks.servers import start_ret2
from indexer.domain.points import Point
from indexer.store.edge.client import EdgeStore
from service.client.client import Client

DIMENSIONS, LISTS, SEARCHES = 256, 40, 200


def fill(folder: Path, names: list[str]) -> None:
    """Write one document into each collection, while no server is up."""

    async def write() -> None:
        store = EdgeStore(folder / "index")
        try:
            for number, name in enumerate(names):
                vector = np.random.default_rng(number).standard_normal(DIMENSIONS).astype(np.float32)
                await store.points(name).upsert([Point("d", vector, "red boat", None, {}, "")])
        finally:
            await store.close()

    asyncio.run(write())


def child_memory(folder: Path) -> str:
    """Return threads, mapped files and memory of its own of the process that has the index open."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if b"indexer.store.edge.process" in command and bytes(folder) in command:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                maps = len((status.parent / "maps").read_text().splitlines())
                own_mib = int(fields["RssAnon"].split()[0]) // 1024
                return f"{fields['Threads'].strip()} threads, {maps} maps, {own_mib} MiB of its own"
        except OSError:
            continue
    return "its memory is not known here"


def timed(client: httpx.Client, method: str, path: str, body: object = None) -> float:
    began = time.perf_counter()
    client.request(method, path, json=body).raise_for_status()
    return (time.perf_counter() - began) * 1e3


def show(name: str, times_ms: list[float]) -> None:
    print(
        f"| {name} | {percentile(times_ms, 50):.1f} | {percentile(times_ms, 95):.1f} | {max(times_ms):.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_collections", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=2_000)
    count = parser.parse_args().count
    machine = Machine.read()
    print(f"## {machine.date}, {count:,} collections of one document\n\n{machine}\n")
    model = ret2_folder("toy", Fusion("many", 3, 1, DIMENSIONS), vocabulary="words")
    names = [f"c{number}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="ret2-many-") as path:
        folder = Path(path)
        with start_ret2(model, data=folder) as url, Client(url) as maker:
            began = time.perf_counter()
            for name in names:
                maker.create_collection(name)
            print(f"created: {count / (time.perf_counter() - began):.0f} a second", flush=True)
        began = time.perf_counter()
        fill(folder, names)
        print(f"filled: {count / (time.perf_counter() - began):.0f} a second\n", flush=True)
        with start_ret2(model, data=folder) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            print("| | p50 ms | p95 ms | max ms |\n|---|---|---|---|")
            search = {"collection": "c0", "query": {"text": "red boat"}}
            show("first list after a start", [timed(client, "GET", "/collections")])
            print(f"\nEdge's process after it: {child_memory(folder)}\n")
            for _ in range(10):
                timed(client, "POST", "/search", search)
            show("list", [timed(client, "GET", "/collections") for _ in range(LISTS)])
            show("search alone", [timed(client, "POST", "/search", search) for _ in range(SEARCHES)])
            stop = threading.Event()

            def go_on() -> None:
                with httpx.Client(base_url=url, timeout=60, trust_env=False) as other:
                    while not stop.wait(0.5):
                        timed(other, "GET", "/collections")

            thread = threading.Thread(target=go_on)
            thread.start()
            show(
                "search, a list every half second", [timed(client, "POST", "/search", search) for _ in range(SEARCHES)]
            )
            stop.set()
            thread.join()
            closed = [{**search, "collection": name} for name in names[1:151]]
            show("search in a closed collection", [timed(client, "POST", "/search", body) for body in closed])
            print(f"\nEdge's process: {child_memory(folder)}")


if __name__ == "__main__":
    main()
