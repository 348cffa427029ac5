"""(d) How long a search waits while documents are loaded in bulk, against idle: the bundled model and atlas, text and picture."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import httpx

from benchmarks.figures import Bar, Ratio, Row
from benchmarks.load import Run, Target, closed_loop
from benchmarks.plan import Plan
from benchmarks.servers import start_ret2
from model.evaluation.atlas import Atlas
from model.evaluation.recall import Carries, questions
from service.cli.demo import COLLECTION, atlas_documents
from service.client.client import Client
from service.client.types import Job

_SEARCHES = 256  # sent in turn
_CHUNK, _AHEAD = 64, 8  # documents of a request of the loader, and how many requests are not indexed yet
_POLL_S = 0.1
_SLOWEST = 0.1  # of the searches: what makes the p95


def measure(plan: Plan) -> list[Row]:
    atlas = Atlas.read()
    documents = atlas_documents(atlas)[: plan.documents]
    with start_ret2("bundled") as url, Client(url) as client:
        client.create_collection(COLLECTION)
        client.load(COLLECTION, documents)
        target = Target(f"{url}/search", search_bodies(atlas))
        forwards, seconds = Forwards(url), plan.search_s / plan.rounds
        idle: list[Run] = []
        loaded: list[Run] = []
        rates: list[float] = []
        for _ in range(plan.rounds):
            idle.append(closed_loop(target, 1, seconds, plan.warm_up_s))
            with loading(client, documents) as loader:
                before, began = loader.indexed, time.perf_counter()
                loaded.append(closed_loop(target, 1, seconds, plan.warm_up_s))
                rates.append((loader.indexed - before) / (time.perf_counter() - began))
        batch_ms = forwards.mean_ms()
    note = f"{median(rates):.0f} documents/s loaded"
    return [
        _row(50, idle, loaded, batch_ms, note),
        _row(95, idle, loaded, batch_ms, ""),
        Row("d", f"the slowest {_SLOWEST:.0%} of them, mean ms", _where(loaded), f"idle: {_where(idle)}"),
    ]


def _where(runs: Sequence[Run]) -> str:
    """What the slowest searches of all runs waited for."""
    every = Run(0.0, tuple(one for run in runs for one in run.answered))
    return ", ".join(f"{stage} {ms:.0f}" for stage, ms in every.slowest_ms(_SLOWEST).items())


def _row(share: int, idle: list[Run], loaded: list[Run], batch_ms: float, note: str) -> Row:
    """The bar is on p95: twice idle and one batch, which may be in the model when the search comes."""
    pairs = [(under.latency_ms(share), alone.latency_ms(share)) for under, alone in zip(loaded, idle, strict=True)]
    under, alone = (median(column) for column in zip(*pairs, strict=True))
    bar = Bar(round(2 * alone + batch_ms), most=True, unit=" ms") if share == 95 else None
    failed = sum(run.failed for run in (*idle, *loaded))
    measured = [f"{under:.0f} ms", note, f"{failed} failed" if failed else ""]
    against = f"idle {alone:.0f} ms" + (f", one batch {batch_ms:.0f} ms" if bar else "")
    what = f"search p{share} during a bulk load"
    return Row("d", what, ", ".join(filter(None, measured)), against, Ratio.of(pairs), bar, under if bar else None)


class Forwards:
    """The server's own count of bulk forwards: what one batch takes while searches go on beside it."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/metrics"
        self._before = self._read()

    def mean_ms(self) -> float:
        """Of those since this was made; NaN if there were none."""
        seconds, count = (now - before for now, before in zip(self._read(), self._before, strict=True))
        return seconds / count * 1e3 if count else math.nan

    def _read(self) -> tuple[float, float]:
        seconds, count = (
            sum(
                map(
                    float,
                    re.findall(
                        rf'^ret2_forward_seconds_{part}{{lane="bulk",model="[^"]*"}} (\S+)$', self._text(), re.MULTILINE
                    ),
                )
            )
            for part in ("sum", "count")
        )
        return seconds, count

    def _text(self) -> str:
        return httpx.get(self._url, timeout=10, trust_env=False).text


def search_bodies(atlas: Atlas) -> list[bytes]:
    """POST /search: held-out questions with their pictures."""
    bodies = []
    for question in questions(atlas, Carries.BOTH, Carries.BOTH)[:_SEARCHES]:
        image = {"base64": base64.b64encode(question.content.image or b"").decode()}
        query = {"text": question.content.text, "image": image}
        bodies.append(json.dumps({"collection": COLLECTION, "query": query, "limit": 10}).encode())
    return bodies


class Loader(threading.Thread):
    """Posts atlas into new collections, again and again, always a few requests ahead of the indexer, until it is told to stop."""

    def __init__(self, client: Client, documents: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(name="bulk load", daemon=True)
        self.indexed = 0
        self.error: Exception | None = None
        self._client = client
        self._documents = documents
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            for number in itertools.count():
                self._fill(f"bulk-{number}")
                self._client.delete_collection(f"bulk-{number}")
                if self._stopping.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - raised again by `stop`
            self.error = error

    def stop(self) -> None:
        """Returns when what was accepted is indexed, so that what is measured next is measured in quiet."""
        self._stopping.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _fill(self, name: str) -> None:
        self._client.create_collection(name)
        waiting: deque[Job] = deque()
        for start in range(0, len(self._documents), _CHUNK):
            if self._stopping.is_set():
                break
            posted = self._client.post_documents(name, self._documents[start : start + _CHUNK])
            waiting.extend(one.job for one in posted if one.job is not None)
            while len(waiting) > _AHEAD:
                self._finish(waiting.popleft())
        for job in waiting:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        self.indexed += self._client.wait_job(job.id).indexed


@contextmanager
def loading(client: Client, documents: Sequence[Mapping[str, Any]]) -> Iterator[Loader]:
    """While the body runs, and from when the first documents are indexed."""
    loader = Loader(client, documents)
    loader.start()
    while loader.is_alive() and not loader.indexed:
        time.sleep(_POLL_S)
    try:
        yield loader
    finally:
        loader.stop()
