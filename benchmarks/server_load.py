"""`RET2_TEST_QDRANT_URL=… python -m benchmarks.server_load [100000] [--stores edge,rest,grpc]`: the same documents on Qdrant Edge and on a
Qdrant server.

Loaded, and then searched by one caller, by gRPC and by REST, in one run. Beside each time stands the processor time that this process
took for it, which is this service's part: a server on the same machine is not in it. Edge's work is in a process of its own.
Searches begin when the graph is built, or after `--graph-wait` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from benchmarks.edge_load import DIMENSIONS, HITS, QUERIES, SHELVES, WRITE, vectors
from benchmarks.figures import percentile
from benchmarks.inputs import texts
from benchmarks.machine import Machine, load_average
from indexer.domain.points import Point
from indexer.filters import Equals, FieldType, Range
from indexer.store.base import SearchWindow, Store
from indexer.store.criteria import Criterion, Hybrid, Nearest, ReciprocalRanks, WordMatch
from indexer.store.edge.client import EdgeStore
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.types import Float32

CALLS, CANDIDATES, GRAPH_WAIT_S = 4, 1_000, 150.0
STORES = {"edge": "Edge", "rest": "server by REST", "grpc": "server by gRPC"}
INDEXES = {"shelf": FieldType.KEYWORD, "price": FieldType.NUMBER}
Search = tuple[Criterion, SearchWindow]
WAYS: dict[str, Callable[[Float32, str], Search]] = {
    "plain": lambda vector, _: (Nearest(vector), SearchWindow(HITS)),
    "one in ten": lambda vector, _: (Nearest(vector), SearchWindow(HITS, condition=Equals("shelf", "s3"))),
    "one in a hundred": lambda vector, _: (Nearest(vector), SearchWindow(HITS, condition=Range("price", lt=10))),
    "words": lambda _, text: (WordMatch(text), SearchWindow(HITS)),
    "hybrid": lambda vector, text: (
        Hybrid(Nearest(vector), WordMatch(text), ReciprocalRanks(60), CANDIDATES),
        SearchWindow(HITS),
    ),
}


async def load(store: Store, documents: list[Float32]) -> str:
    """Fill collection `c` by four calls at a time, and return documents a second and this process's part of one."""
    words = texts(10_000, seed=7)
    await store.create("c", DIMENSIONS, INDEXES, language="simple")
    calls = asyncio.Semaphore(CALLS)

    async def write(number: int, part: Float32) -> None:
        async with calls:
            points = [
                Point(f"d{place}", vector, words[place % len(words)], None, _metadata(place), "")
                for place, vector in enumerate(part, number * WRITE)
            ]
            await store.points("c").upsert(points)

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(write(number, part) for number, part in enumerate(documents)))
    loaded_s, own_s = time.perf_counter() - began, time.process_time() - used
    count = WRITE * len(documents)
    return f"{count / loaded_s:,.0f}/s, {own_s / count * 1e6:.0f} µs"


def _metadata(place: int) -> dict[str, object]:
    return {"shelf": f"s{place % SHELVES}", "price": float(place % 1_000)}


async def search(store: Store, queries: Float32, way: Callable[[Float32, str], Search]) -> str:
    points, took_ms = store.points("c"), list[float]()
    searches = [way(query, text) for query, text in zip(queries, texts(len(queries), seed=7), strict=True)]
    for criterion, window in searches[:10]:
        await points.search(criterion, window)
    used = time.process_time()
    for criterion, window in searches:
        began = time.perf_counter()
        await points.search(criterion, window)
        took_ms.append((time.perf_counter() - began) * 1e3)
    own_ms = (time.process_time() - used) * 1e3 / len(searches)
    return f"{percentile(took_ms, 50):.1f}/{percentile(took_ms, 95):.1f}, {own_ms:.1f}"


async def graph_of_server(store: ServerStore, count: int, most_s: float) -> str:
    """Wait for the graph."""
    began = time.perf_counter()
    while time.perf_counter() - began < most_s:
        info = await store.client.get_collection(store.engine_name("c"))
        if info.status == "green" and (info.indexed_vectors_count or 0) >= 0.9 * count:
            break
        await asyncio.sleep(0.5)
    return f"{time.perf_counter() - began:.0f} s"


async def graph_of_edge(folder: Path, most_s: float) -> str:
    began = time.perf_counter()
    while time.perf_counter() - began < most_s:
        if any((folder / "c").glob("shard*/graph.json")) and not (folder / "c" / "journal").exists():
            break
        await asyncio.sleep(0.5)
    return f"{time.perf_counter() - began:.0f} s"


async def measure(stores: list[str], count: int, settings: ServerStoreSettings, folder: Path, most_s: float) -> None:
    *documents, last = vectors(count)
    queries = last[:QUERIES]
    rows: dict[str, list[str]] = {}

    def note(row: str, cell: str) -> None:
        rows.setdefault(row, []).append(cell)
        print(f"{row}: {cell}", file=sys.stderr, flush=True)

    for kind in stores:
        edge = EdgeStore(folder) if kind == "edge" else None
        server = None if edge else ServerStore(replace(settings, prefer_grpc=kind == "grpc"))
        store = cast(Store, edge or server)
        note("load", await load(store, documents))
        note(
            "then the graph",
            await (graph_of_server(server, count, most_s) if server else graph_of_edge(folder, most_s)),
        )
        for name, way in WAYS.items():
            note(name, await search(store, queries, way))
        await store.drop("c")
        await store.close()
    print(f"| | {' | '.join(STORES[kind] for kind in stores)} |\n|{'---|' * (len(stores) + 1)}")
    for row, cells in rows.items():
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_load", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100_000)
    parser.add_argument("--stores", default=",".join(STORES), help="of edge, rest and grpc, one after another")
    parser.add_argument("--graph-wait", type=float, default=GRAPH_WAIT_S, help="seconds at most")
    arguments = parser.parse_args()
    stores = arguments.stores.split(",")
    if unknown := set(stores) - STORES.keys():
        parser.error(f"--stores is of {', '.join(STORES)}, not {', '.join(sorted(unknown))}")
    machine = Machine.read()
    print(f"## {machine.date}, {arguments.count:,} x {DIMENSIONS}\n\n{machine}; load {load_average():.2f}")
    print("\nMilliseconds p50/p95 of ten hits, then this process's part of one.\n")
    with tempfile.TemporaryDirectory(prefix="ret2-server-") as folder:
        prefix = f"bench{os.getpid()}"
        settings = ServerStoreSettings(
            os.environ.get("RET2_TEST_QDRANT_URL", ""), timeout_s=60, collection_prefix=prefix
        )
        asyncio.run(measure(stores, arguments.count, settings, Path(folder), arguments.graph_wait))


if __name__ == "__main__":
    main()
