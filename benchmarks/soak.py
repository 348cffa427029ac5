"""A soak: `python -m benchmarks.soak [--minutes 30]`. Six good and six hostile callers of one server on loopback.

Good callers search with texts and pictures, post documents, follow their jobs and read what they posted; each of their
requests must succeed. Before, text searches alone give the figures of a quiet server. Prints a section for
benchmarks/results/soak.md.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import colorsys
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw

from benchmarks.figures import percentile
from benchmarks.hostile_inputs import write_imports
from benchmarks.machine import Machine, load_average
from benchmarks.servers import start_ret2
from service.keys import EVERY_COLLECTION, Key, KeyScope, line_of, new_key

_REPOSITORY = Path(__file__).parents[1]
_HOSTILE_CALLERS = 6
_COLLECTION = "shop"
_DOCUMENTS = 2_000
_PAUSE_S = 0.2
_PATIENCE_S, _JOB_S = 60.0, 600.0
_SAMPLE_S = 5.0
_REST_S = 30.0
_COLOURS = ("red", "orange", "yellow", "green", "blue", "violet", "brown", "white", "black", "grey")
_THINGS = ("shirt", "mug", "lamp", "chair", "bottle", "bag", "hat", "clock", "boat", "kite", "spoon", "bicycle")


@dataclass
class Answers:
    """What good callers saw: seconds of each answer by kind, and what failed."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def row(self, kind: str) -> str:
        seconds = self.seconds.get(kind, [])
        shares = " | ".join(f"{percentile(seconds, share) * 1e3:.0f}" for share in (50, 95, 99, 100))
        return f"| {kind} | {len(seconds)} | {shares} |"


@dataclass(frozen=True)
class Process:
    """A process of the server at one moment."""

    name: str
    rss_mib: float
    descriptors: int


def processes(parent: int) -> dict[int, Process]:
    """Return the descendants of a process, by id."""
    family: dict[int, Process] = {}
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                family[int(child)] = _process(Path("/proc") / child)
                family |= processes(int(child))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return family


def _process(folder: Path) -> Process:
    words = [word for word in (folder / "cmdline").read_text().split("\0") if word]
    module = words[words.index("-m") + 1] if "-m" in words else " ".join(words)[:40]
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Process(module, int(status.get("VmRSS", "0 kB").split()[0]) / 1024, len(list((folder / "fd").iterdir())))


class Good:
    """The good callers. They share the collection, not the documents: each posts those of its own number."""

    def __init__(self, url: str, key: str, answers: Answers) -> None:
        self.http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_PATIENCE_S, trust_env=False
        )
        self.answers = answers

    async def text_search(self, draw: random.Random) -> None:
        query = {"text": f"a {draw.choice(_COLOURS)} {draw.choice(_THINGS)}"}
        body = {"collection": _COLLECTION, "query": query}
        answer = await self._ask("text search", "POST", "/search", body)
        if answer and len(answer["hits"]) != 10:
            self.answers.failures[f"text search: {len(answer['hits'])} hits"] += 1

    async def picture_search(self, draw: random.Random) -> None:
        image = {"base64": base64.b64encode(_picture(draw)).decode()}
        await self._ask("picture search", "POST", "/search", {"collection": _COLLECTION, "query": {"image": image}})

    async def documents(self, draw: random.Random) -> None:
        """Post some, follow their job to its end, and read one back."""
        batch = [_document(draw, draw.randrange(_DOCUMENTS)) for _ in range(8)]
        documents = list({document["id"]: document for document in batch}.values())
        path = f"/collections/{_COLLECTION}/documents"
        answer = await self._ask("post documents", "POST", path, documents)
        if not answer:
            return
        began, job = time.monotonic(), answer["job"]
        while job["state"] in ("queued", "running", "waiting"):
            await asyncio.sleep(_PAUSE_S)
            if time.monotonic() - began > _JOB_S:
                self._fail(f"a job takes over {_JOB_S:g} s", json.dumps(job))
                return
            if not (answer := await self._ask("get job", "GET", f"/jobs/{job['id']}")):
                return
            job = answer
        self.answers.seconds.setdefault("documents indexed", []).append(time.monotonic() - began)
        if job["state"] != "succeeded" or job["failed"]:
            self._fail(f"a job {job['state']}", json.dumps(job))
        await self._ask("get document", "GET", f"{path}/{documents[0]['id']}")

    async def _ask(self, kind: str, method: str, path: str, body: Any = None) -> Any:
        began = time.monotonic()
        try:
            answer = await self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            self._fail(f"{kind}: {type(error).__name__}", str(error))
            return None
        if answer.status_code not in (200, 202):
            self._fail(f"{kind}: {answer.status_code}", answer.text[:300])
            return None
        self.answers.seconds.setdefault(kind, []).append(time.monotonic() - began)
        return answer.json()

    def _fail(self, failure: str, detail: str) -> None:
        print(time.strftime("%H:%M:%S"), "a good request failed,", failure, detail, flush=True)
        self.answers.failures[failure] += 1


async def _repeat(call: Callable[[random.Random], Awaitable[None]], seed: int, seconds: float) -> None:
    draw, until = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < until:
        await call(draw)
        await asyncio.sleep(_PAUSE_S)


def _document(draw: random.Random, number: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": f"d{number}",
        "text": f"a {draw.choice(_COLOURS)} {draw.choice(_THINGS)}, number {draw.randrange(1_000_000)}",
        "metadata": {"price": draw.randrange(100), "colour": draw.choice(_COLOURS)},
    }
    if number % 8 == 0:
        document["image"] = {"base64": base64.b64encode(_picture(draw)).decode()}
    return document


def _picture(draw: random.Random) -> bytes:
    image = Image.new("RGB", (320, 240), "white")
    colour = tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(draw.random(), 1, 1))
    box = sorted(draw.randrange(240) for _ in range(2))
    ImageDraw.Draw(image).ellipse((box[0], box[0], box[1] + 1, box[1] + 1), fill=colour)
    file = io.BytesIO()
    image.save(file, draw.choice(("JPEG", "PNG", "WEBP")))
    return file.getvalue()


@dataclass
class Soak:
    """The figures of one soak."""

    machine: Machine
    minutes: float
    quiet: Answers = field(default_factory=Answers)
    mixed: Answers = field(default_factory=Answers)
    start: dict[int, Process] = field(default_factory=dict)
    end: dict[int, Process] = field(default_factory=dict)
    peak_mib: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)

    async def run(self, url: str, keys: list[str], files: list[str], folder: Path, quiet_s: float) -> None:
        seconds = self.minutes * 60
        await _fill(url, keys[0])
        good = Good(url, keys[0], self.quiet)
        await _repeat(good.text_search, 0, quiet_s)
        self.start = processes(os.getpid())
        spec = folder / "hostile.json"
        result = folder / "statuses.json"
        values = {"url": url, "keys": keys[1:], "good": _COLLECTION, "files": files, "seconds": seconds}
        spec.write_text(json.dumps({**values, "result": str(result)}))
        hostile = _start_hostile(spec)
        good.answers = self.mixed
        calls = [good.text_search] * 2 + [good.picture_search] * 2 + [good.documents] * 2
        sampling = asyncio.create_task(self._sample(hostile.pid))
        await asyncio.gather(*(_repeat(call, seed, seconds) for seed, call in enumerate(calls)))
        await asyncio.to_thread(hostile.wait)
        sampling.cancel()
        self.statuses = json.loads(result.read_text())
        await asyncio.sleep(_REST_S)
        self.end = processes(os.getpid())
        await good.http.aclose()

    async def _sample(self, ours: int) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            for pid, process in processes(os.getpid()).items():
                if pid != ours:
                    self.peak_mib[process.name] = max(self.peak_mib[process.name], int(process.rss_mib))

    def report(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        machine = self.machine
        yield f"## {machine.date}, {self.minutes:g} minutes\n"
        yield f"{machine}; load average {machine.load_average:.2f} at the start, {load_average():.2f} at the end.\n"
        good = sum(map(len, self.mixed.seconds.values()))
        failed = dict(self.mixed.failures) or "none"
        yield f"Good requests answered: {good}. Good requests failed: {self.mixed.failures.total()} ({failed}).\n"
        yield "| milliseconds | requests | p50 | p95 | p99 | slowest |\n|---|---|---|---|---|---|"
        yield self.quiet.row("text search").replace("text search", "text search, quiet")
        yield from map(self.mixed.row, sorted(self.mixed.seconds))
        yield "\n| process | RSS at the start, MiB | at the end | peak | descriptors at the start | at the end |"
        yield "|---|---|---|---|---|---|"
        for name in sorted({process.name for process in (*self.start.values(), *self.end.values())}):
            yield self._process_row(name)
        yield "\n| hostile | requests, by answer |\n|---|---|"
        for kind, statuses in sorted(self.statuses.items()):
            yield f"| {kind} | {', '.join(f'{status}: {count}' for status, count in sorted(statuses.items()))} |"

    def _process_row(self, name: str) -> str:
        before, after = (
            [process for process in moment.values() if process.name == name] for moment in (self.start, self.end)
        )
        rss = [" + ".join(f"{process.rss_mib:.0f}" for process in moment) or "none" for moment in (before, after)]
        counts = [" + ".join(str(process.descriptors) for process in moment) or "none" for moment in (before, after)]
        return f"| {name} | {rss[0]} | {rss[1]} | {self.peak_mib[name]} | {counts[0]} | {counts[1]} |"


def _start_hostile(spec: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.hostile", str(spec)], cwd=_REPOSITORY)


async def _fill(url: str, key: str) -> None:
    """Index every document that the good callers write anew later."""
    draw = random.Random(7)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300, trust_env=False) as http:
        (await http.put(f"/collections/{_COLLECTION}", json={"language": "english"})).raise_for_status()
        for start in range(0, _DOCUMENTS, 100):
            documents = [_document(draw, number) for number in range(start, start + 100)]
            answer = await http.post(f"/collections/{_COLLECTION}/documents?wait=true", json=documents)
            answer.raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--quiet-minutes", type=float, default=2.0, help="of text searches alone, before")
    parser.add_argument("--log", type=Path, help="where the server's log is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ret2-soak-") as scratch:
        folder = Path(scratch)
        imports = folder / "imports"
        imports.mkdir()
        files = [str(imports / name) for name in write_imports(imports)]
        keys = [new_key() for _ in range(_HOSTILE_CALLERS + 1)]
        names = ["good", *(f"hostile-{number}" for number in range(_HOSTILE_CALLERS))]
        lines = [
            line_of(key, Key(name, frozenset(KeyScope), EVERY_COLLECTION))
            for name, key in zip(names, keys, strict=True)
        ]
        key_file = folder / "keys"
        key_file.write_text("\n".join(lines) + "\n")
        flags = ["--api-keys-file", str(key_file), "--import-roots", str(imports), "--fetch-allow-private"]
        soak = Soak(Machine.read(), arguments.minutes)
        with start_ret2("bundled:everyday", *flags, data=folder / "data", log=arguments.log) as url:
            asyncio.run(soak.run(url, keys, files, folder, arguments.quiet_minutes * 60))
    print(soak.report())


if __name__ == "__main__":
    main()
