"""`python -m benchmarks.edge_load [100000 …] [--quantization scalar]`: a collection on Qdrant Edge while it is loaded, while its graph
is built, and then, beside one caller who searches all the time.

Vectors are made (clusters of a hundred) and written through the store, without HTTP and model. Recall is against a plain product over all
vectors, of queries from the same clusters. Idle is after the last build, so a search of the load reads vectors that no graph has yet.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.edge_graphs import built
from benchmarks.figures import percentile
from benchmarks.inputs import texts
from benchmarks.machine import Machine, load_average
from indexer.domain.points import Point
from indexer.filters import Equals, FieldType
from indexer.store.base import SearchWindow
from indexer.store.criteria import Nearest
from indexer.store.edge.client import EdgeStore
from indexer.store.edge.settings import EdgeSettings
from indexer.store.edge.summaries import bytes_on_disk
from model.types import Float32

DIMENSIONS, CLUSTER, SHELVES, HITS = 256, 100, 10, 10
WRITE, QUERIES = 1_000, 100
HEADER = (
    "documents",
    "written a second",
    "load p50/p95 ms",
    "build s",
    "build p50/p95 ms",
    "idle p50/p95 ms",
    "1 in 10 p50 ms",
    "exact p50 ms",
    "recall@10",
    "reopened s",
    "own MiB",
    "mapped MiB",
    "bytes on disk a document",
)


def vectors(size: int) -> Iterator[Float32]:
    """Yield all vectors and then the queries, `WRITE` at a time, the same at every call."""
    draw = np.random.default_rng(1)
    centres = draw.standard_normal((max(1, size // CLUSTER), DIMENSIONS)).astype(np.float32)
    for _ in range(0, size + WRITE, WRITE):
        near = centres[draw.integers(len(centres), size=WRITE)]
        made = near + 0.5 * draw.standard_normal(near.shape).astype(np.float32)
        yield made / np.linalg.norm(made, axis=1, keepdims=True)


class Caller:
    """One caller who searches again 5 ms after each answer."""

    def __init__(self, store: EdgeStore, queries: Float32) -> None:
        self._points, self._queries = store.points("c"), queries
        self.took_ms: list[float] = []

    async def run(self) -> None:
        while True:
            for query in self._queries:
                self.took_ms.append(await self.search(query, SearchWindow(HITS)))
                await asyncio.sleep(0.005)

    async def search(self, query: Float32, window: SearchWindow) -> float:
        began = time.perf_counter()
        await self._points.search(Nearest(query), window)
        return (time.perf_counter() - began) * 1e3

    def cell(self) -> str:
        """Return the figures since the last call."""
        took_ms, self.took_ms = self.took_ms, []
        return f"{percentile(took_ms, 50):.1f}/{percentile(took_ms, 95):.1f}" if took_ms else "-"

    async def p50_ms(self, window: SearchWindow) -> float:
        return percentile([await self.search(query, window) for query in self._queries], 50)


class Row(list[str]):
    """The cells of one size, which are shown as they come: a million takes many minutes."""

    def add(self, *cells: str) -> None:
        for cell in cells:
            print(f"{self[0] if self else cell}: {HEADER[len(self)]} {cell}", file=sys.stderr, flush=True)
            self.append(cell)


async def measure(size: int, folder: Path, settings: EdgeSettings, seconds: float, *, alone: bool) -> list[str]:
    row = Row()
    *documents, queries = vectors(size)
    queries = queries[:QUERIES]
    store = EdgeStore(folder, settings=settings)
    await store.create("c", DIMENSIONS, {"shelf": FieldType.KEYWORD}, language="simple")
    caller = Caller(store, queries)
    searching = None if alone else asyncio.create_task(caller.run())
    words = texts(1_000, seed=7)
    began = time.perf_counter()
    for number, part in enumerate(documents):
        first = number * WRITE
        await store.points("c").upsert(
            [
                Point(f"d{first + i}", vector, words[i], None, {"shelf": f"s{i % SHELVES}"}, "")
                for i, vector in enumerate(part)
            ]
        )
    loaded_s = time.perf_counter() - began
    row.add(f"{size:,}", f"{size / loaded_s:,.0f}", caller.cell())
    began = time.perf_counter()
    await built(folder / "c", size, DIMENSIONS)
    row.add(f"{time.perf_counter() - began:.0f}", caller.cell())
    searching = searching or asyncio.create_task(caller.run())
    await asyncio.sleep(seconds)
    row.add(caller.cell())
    searching.cancel()
    exact = await caller.p50_ms(SearchWindow(HITS, exact=True))
    row.add(f"{await caller.p50_ms(SearchWindow(HITS, condition=Equals('shelf', 's3'))):.1f}", f"{exact:.1f}")
    row.add(f"{await _recall(store, documents, queries):.3f}")
    await store.close()
    began = time.perf_counter()
    store = EdgeStore(folder, settings=settings)
    await store.points("c").search(Nearest(queries[0]), SearchWindow(HITS))
    row.add(f"{time.perf_counter() - began:.2f}")
    await Caller(store, queries).p50_ms(SearchWindow(HITS))
    process = store._child._process
    status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text) if process else ""
    memory = dict(line.split(":", 1) for line in status.splitlines())
    row.add(*(f"{int(memory[name].split()[0]) // 1024:,}" for name in ("RssAnon", "RssFile")))
    await store.close()
    row.add(f"{bytes_on_disk(folder) / size:,.0f}")
    return row


async def _recall(store: EdgeStore, documents: list[Float32], queries: Float32) -> float:
    scores = np.concatenate([queries @ part.T for part in documents], axis=1)
    best = np.argpartition(-scores, HITS, axis=1)[:, :HITS]
    right = 0
    for query, exact in zip(queries, best, strict=True):
        hits = await store.points("c").search(Nearest(query), SearchWindow(HITS))
        right += len({hit.document_id for hit in hits} & {f"d{place}" for place in exact})
    return right / best.size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge_load", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[100_000])
    parser.add_argument("--seconds", type=float, default=5.0, help="of idle searching")
    parser.add_argument("--alone", action="store_true", help="nobody searches while it is loaded and built")
    parser.add_argument("--threads", type=int, help="of the builder")
    parser.add_argument("--quantization", choices=("none", "scalar"), default="none")
    arguments = parser.parse_args()
    machine = Machine.read()
    print(f"{machine.date}, {machine}; load average {machine.load_average:.2f}; vectors: {arguments.quantization}\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    settings = EdgeSettings(build_threads=arguments.threads, quantization=arguments.quantization)
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(prefix="ret2-edge-") as folder:
            row = asyncio.run(measure(size, Path(folder), settings, arguments.seconds, alone=arguments.alone))
        print(f"| {' | '.join(row)} |", flush=True)
    print(f"\nLoad average {load_average():.2f} at the end.")


if __name__ == "__main__":
    main()
