"""`python -m benchmarks.index_sizes [10000 100000 …]`: how `/search` grows with the collection, on Qdrant Edge, and where its time goes.

Documents lie around the model's embeddings of some texts, which queries are like, and are written into the index while the server is
down; it is searched when the graph is there. Everything else is real: `ret2 serve`, HTTP, JSON, a model (of toy size, so that its share
stays small). Recall is against a plain product over all vectors. --write appends the tables to
benchmarks/results and draws docs/images/growth.svg: in one run of all sizes, for the chart has what the run has.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks.chart import svg
from benchmarks.checkpoints import Fusion, ret2_folder
from benchmarks.edge_graphs import built
from benchmarks.figures import percentile
from benchmarks.inputs import texts
from benchmarks.load import Target, closed_loop
from benchmarks.machine import Machine, load_average
from benchmarks.servers import start_ret2
from indexer.domain.points import Point
from indexer.store.edge.client import EdgeStore
from indexer.store.edge.settings import EdgeSettings
from model.types import Float32
from service.client.client import Client

DIMENSIONS, LATENTS, SHELVES = 256, 4, 10
SIZES = (10_000, 100_000, 1_000_000)
CONNECTIONS = (1, 8, 32)
RESULTS = Path(__file__).with_name("results")
CHART = Path(__file__).parents[1] / "docs" / "images" / "growth.svg"
LATE_UP_TO = 100_000  # documents of four vectors each
# Texts around whose embeddings the documents lie, and how far: a share of what lies between the texts.
CENTRES, NOISE = 2_000, 0.5
_LEAST_CENTRES, CLUSTER = 8, 100
# Different texts of the documents: few documents of a large collection have the same.
TEXTS = 50_000
_WRITE, _QUERIES, _LIMIT = 256, 64, 10
_PARTS = ("decode_ms", "queue_ms", "encode_ms", "store_ms")

# What is searched for, beside the query's text.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filtered, one in ten": {"filter": {"field": "shelf", "equals": "s3"}},
    "filtered, one in a hundred": {"filter": {"field": "price", "lt": 10}},
    "words alone": {"mode": "lexical"},
    "hybrid": {"mode": "hybrid"},
}
LATE: dict[str, dict[str, Any]] = {"mean of the latents": {"rerank": False}, "late interaction": {"rerank": True}}


@dataclass(frozen=True, slots=True)
class Searched:
    """One way of searching one collection: milliseconds of each request by part, and answered requests a second by connections."""

    way: str
    parts: dict[str, list[float]]
    rates: tuple[float, ...]

    @property
    def whole(self) -> list[float]:
        return self.parts["whole"]

    def cells(self) -> str:
        split = (
            f"{percentile(self.parts[name], 50):.1f}/{percentile(self.parts[name], 95):.1f}" for name in HEADER[1:-1]
        )
        rates = " ".join(f"{rate:.0f}" for rate in self.rates)
        return f"| {self.way} | {' | '.join(split)} | {rates} |"


HEADER = ("way", "decode", "queue", "encode", "store", "rest", "whole", "searches/s")
EXPLANATION = f"""`/search` on Qdrant Edge, made vectors, one caller: milliseconds p50/p95 of each part of a search. Searches a second with
{", ".join(map(str, CONNECTIONS))} connections. Rest is HTTP, JSON, checks and the log."""


def measure(
    size: int, folder: Path, seconds: float, shape: str, late: bool, say: Callable[[str], object] = print
) -> list[Searched]:
    """Fills a collection of `size` documents under `folder`, serves it and searches it. Says each line as it goes."""
    model = ret2_folder(
        shape, Fusion(f"index-{LATENTS if late else 1}", 3, LATENTS if late else 1, DIMENSIONS), vocabulary="words"
    )
    with start_ret2(model, data=folder) as url, Client(url) as client:
        client.create_collection("made", indexes={"shelf": "keyword", "price": "number"}, language="simple")
        made = Vectors(
            _embeddings(url, texts(min(CENTRES, max(_LEAST_CENTRES, size // CLUSTER)), seed=11), "document"), size
        )
    filled_s, built_s = asyncio.run(_fill(folder / "index", made, late))
    opened_s = asyncio.run(_opened(folder / "index", size))
    with start_ret2(model, data=folder) as url:
        kind = f", {LATENTS} latents" if late else ""
        recall = _recall(url, made) if not late else None
        said = "" if recall is None else f", recall@{_LIMIT} {recall:.4f}"
        speed = f"{size / filled_s:,.0f}/s, built {built_s:.0f} s later, opened in {opened_s:.2f} s"
        say(f"\n{size:,} × {DIMENSIONS}{kind}: written at {speed}{said}\n")
        say(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
        found = []
        for way, options in (LATE if late else WAYS).items():
            found.append(_searched(url, way, options, seconds))
            say(found[-1].cells())
        rest = max(percentile(one.parts["rest"], 50) for one in found)
        say(f"\nRest, p50, at most {rest:.1f} ms, where 2 are wanted" + ("" if recall is None else "; recall, 0.99"))
        say(f"Edge's process: {_memory(folder)}; on disk {_size(folder / 'index') / size:,.0f} bytes a document")
        return found


def _memory(folder: Path) -> str:
    """Of the process that has the index open: its own, and pages of files, which the system takes back when it needs them."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            command = (status.parent / "cmdline").read_bytes()
            if b"indexer.store.edge.process" in command and bytes(folder) in command:
                own, mapped = (
                    int(re.findall(rf"^{name}:\s+(\d+) kB", status.read_text(), re.MULTILINE)[0]) // 1024
                    for name in ("RssAnon", "RssFile")
                )
                return f"{own:,} MiB of its own, {mapped:,} MiB of mapped files"
    return "its memory is not told here"


def _size(folder: Path) -> int:
    """Bytes that the files take on the disk; Edge's logs have room that they do not use yet."""
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())


@dataclass(frozen=True, slots=True)
class Vectors:
    """Documents' vectors of unit length: each near one of the `centres`, some of them between two queries and none far
    from all."""

    centres: Float32  # (C, D)
    size: int

    def __iter__(self) -> Iterator[tuple[int, Float32]]:
        """Yield (place of the first, some vectors), the same at every call."""
        draw = np.random.default_rng(1)
        width = NOISE * float(np.std(self.centres, axis=0).mean())
        for first in range(0, self.size, _WRITE):
            near = self.centres[draw.integers(len(self.centres), size=min(_WRITE, self.size - first))]
            made = near + width * draw.standard_normal(near.shape).astype(np.float32)
            yield first, made / np.linalg.norm(made, axis=1, keepdims=True)


def _embeddings(url: str, inputs: Sequence[str], role: str) -> Float32:
    """Return the model's embeddings of texts (N, D)."""
    rows: list[list[float]] = []
    for first in range(0, len(inputs), _QUERIES):
        body = {"role": role, "inputs": [{"text": text} for text in inputs[first : first + _QUERIES]]}
        answer = httpx.post(f"{url}/encode", json=body, timeout=60, trust_env=False).raise_for_status().json()
        rows += [result["embedding"] for result in answer["results"]]
    return np.array(rows, np.float32)


async def _fill(folder: Path, made: Vectors, late: bool) -> tuple[float, float]:
    """Return the seconds that writing took, and those until the graph was there."""
    # Nobody searches meanwhile, so the graph has all cores.
    store = EdgeStore(folder, settings=EdgeSettings(build_threads=os.cpu_count()))
    try:
        points = store.points("made")
        words = itertools.cycle(texts(min(TEXTS, made.size), seed=7))
        draw = np.random.default_rng(3)
        began = time.perf_counter()
        for first, vectors in made:
            rows = [
                Point(
                    f"d{first + i}",
                    vector,
                    next(words),
                    None,
                    {"shelf": f"s{(first + i) % SHELVES}", "price": price},
                    "",
                )
                for i, (vector, price) in enumerate(zip(vectors, draw.uniform(0, 1_000, len(vectors)), strict=True))
            ]
            if late:
                rows = [_with_latents(row, draw) for row in rows]
            await points.upsert(rows)
        filled_s = time.perf_counter() - began
        await built(folder / "made", made.size, DIMENSIONS)
        return filled_s, time.perf_counter() - began - filled_s
    finally:
        await store.close()


def _with_latents(point: Point, draw: np.random.Generator) -> Point:
    latents = point.vector + 0.05 * draw.standard_normal((LATENTS, DIMENSIONS)).astype(np.float32)
    return Point(point.document_id, point.vector, point.text, None, point.metadata, "", None, latents)


async def _opened(folder: Path, size: int) -> float:
    """Seconds from nothing to an answer that has read the collection."""
    began = time.perf_counter()
    store = EdgeStore(folder)
    try:
        assert await store.points("made").count() == size
        return time.perf_counter() - began
    finally:
        await store.close()


def _recall(url: str, made: Vectors) -> float:
    """Share of the exact ten that `/search` finds at its defaults."""
    asked = texts(_QUERIES)
    queries = _embeddings(url, asked, "query")
    scores = np.concatenate([queries @ vectors.T for _, vectors in made], axis=1)
    best = np.argpartition(-scores, _LIMIT, axis=1)[:, :_LIMIT]
    found = 0
    for text, exact in zip(asked, best, strict=True):
        hits = (
            httpx.post(f"{url}/search", json=_body(text, {}), timeout=60, trust_env=False)
            .raise_for_status()
            .json()["hits"]
        )
        found += len({hit["id"] for hit in hits} & {f"d{place}" for place in exact})
    return found / best.size


def _body(text: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"collection": "made", "query": {"text": text}, "limit": _LIMIT, **options}


def _searched(url: str, way: str, options: dict[str, Any], seconds: float) -> Searched:
    bodies = [json.dumps(_body(text, options)).encode() for text in texts(_QUERIES)]
    for body in bodies[:4]:  # a payload index, threads, caches
        _one(url, [body])
    parts: dict[str, list[float]] = {name: [] for name in HEADER[1:-1]}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for one in _one(url, bodies):
            for name, ms in one.items():
                parts[name].append(ms)
    target = Target(f"{url}/search", bodies)
    return Searched(way, parts, tuple(closed_loop(target, count, seconds, 0.5).rate for count in CONNECTIONS))


def _one(url: str, bodies: Sequence[bytes]) -> Iterator[dict[str, float]]:
    """Each request's parts: what the answer's `timings` say, and what is left of the time its caller waited."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=120)
    try:
        for body in bodies:
            began = time.perf_counter()
            connection.request("POST", "/search", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            read = answer.read()
            whole = (time.perf_counter() - began) * 1e3
            if answer.status != 200:
                raise RuntimeError(f"/search answered {answer.status}: {read[:300]!r}")
            timings = json.loads(read)["timings"]
            parts = {name.removesuffix("_ms"): timings[name] for name in _PARTS}
            yield {**parts, "rest": whole - sum(parts.values()), "whole": whole}
    finally:
        connection.close()


def chart(found: Mapping[int, Sequence[Searched]]) -> str:
    """p50 of a search against the number of documents; a way that no size has is left out."""
    lines = {
        way: [(size, percentile(one.whole, 50)) for size, rows in found.items() for one in rows if one.way == way]
        for way in [*WAYS, *LATE]
    }
    drawn = {way: line for way, line in lines.items() if line and way != "mean of the latents"}
    return svg(drawn, "documents in the collection", "one search, p50, ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index_sizes", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--shape", default="toy")
    parser.add_argument("--write", action="store_true", help="into benchmarks/results and docs/images")
    arguments = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    machine, began = Machine.read(), time.perf_counter()
    say(f"## {machine.date}, search\n\n{machine}; load average {machine.load_average:.2f} at the start.\n{EXPLANATION}")
    found: dict[int, list[Searched]] = {}
    for size in arguments.sizes:
        for late in (False, True) if size <= LATE_UP_TO else (False,):
            with tempfile.TemporaryDirectory(prefix="ret2-sizes-") as folder:
                searched = measure(size, Path(folder), arguments.seconds, arguments.shape, late, say)
                found.setdefault(size, []).extend(searched)
    say(f"\nLoad average {load_average():.2f} at the end, {(time.perf_counter() - began) / 60:.0f} minutes.")
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{machine.date[:10]}-{machine.slug}-search.md").open("a") as file:
            file.write("\n".join(lines) + "\n")
        CHART.write_text(chart(found))
        print(f"appended to {file.name}, drawn to {CHART}")


if __name__ == "__main__":
    main()
