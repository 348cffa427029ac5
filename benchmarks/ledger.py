"""What the ledger adds to each document: accepting it, then claiming it and recording its outcome, with no model and no store.

python -m benchmarks.ledger                                           SQLite in a temporary folder, written through to the disk
python -m benchmarks.ledger --database-url postgresql://U:P@H/EMPTY   PostgreSQL, with one, two and four worker processes
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from indexer.domain.collections import Collection
from indexer.domain.documents import Document
from indexer.domain.jobs import JobKind, Outcome, Status
from indexer.ledger.ledger import Ledger

BATCH = 64
LEASE_S = 600.0
TEXT = "a passage of the length that passages have, some four hundred characters of it. " * 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall-clock time for so many documents."""

    what: str
    workers: int
    documents: int
    seconds: float

    def __str__(self) -> str:
        each_ms, rate = self.seconds / self.documents * 1e3, self.documents / self.seconds
        return f"| {self.what} | {self.workers} | {self.documents:,} | {each_ms:.3f} | {rate:,.0f} |"


HEADER = "| what | processes | documents | ms a document | documents a second |\n|---|---|---|---|---|"


def measure(url: str, documents: int, workers: tuple[int, ...]) -> Iterator[Cost]:
    """`documents` for each number of workers, in jobs of ten batches."""
    ledger = Ledger.open(url)
    ledger.collections.create.blocking(Collection("bench", "fingerprint", "none", 8, time.time()))
    try:
        for count in workers:
            yield Cost("accept", 1, documents, _timed(lambda: accept(ledger, documents)))
            yield Cost("claim and finish", count, documents, _timed(partial(work, url, count)))
            assert ledger.jobs.pending_documents.blocking() == 0
    finally:
        ledger.collections.drop.blocking("bench")
        ledger.close()


def accept(ledger: Ledger, documents: int) -> None:
    ids = iter(range(documents))
    for start in range(0, documents, 10 * BATCH):
        job, _ = ledger.submissions.open.blocking("bench", JobKind.DOCUMENTS)
        for first in range(start, min(start + 10 * BATCH, documents), BATCH):
            size = min(BATCH, documents - first)
            ledger.submissions.append.blocking(
                job.id, [(first - start + place, Document(f"d{next(ids)}", TEXT)) for place in range(size)]
            )
        ledger.submissions.commit.blocking(job.id)


def work(url: str, workers: int) -> None:
    """By that many processes; one is this one. Their start counts, which is little of a second."""
    if workers == 1:
        drain(url)
        return
    with multiprocessing.get_context("fork").Pool(workers) as processes:
        processes.map(drain, [url] * workers)


def drain(url: str) -> None:
    """As a worker does: claims a call's worth, renews the lease once, records the outcomes."""
    ledger = Ledger.open(url)
    try:
        while batches := ledger.batches.claim.blocking(BATCH, LEASE_S, max_documents=BATCH):
            ledger.batches.renew.blocking(batches, LEASE_S)
            done = [(batch, [Outcome(at, one.id, Status.INDEXED) for at, one in batch.items]) for batch in batches]
            assert ledger.batches.finish.blocking(done)
    finally:
        ledger.close()


def _timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=64_000)
    parser.add_argument("--database-url", help="an empty database; without it SQLite")
    arguments = parser.parse_args()
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        sqlite = f"sqlite:///{Path(folder) / 'ledger.sqlite'}"
        workers = (1, 2, 4) if arguments.database_url else (1,)
        for cost in measure(arguments.database_url or sqlite, arguments.documents, workers):
            print(cost, flush=True)


if __name__ == "__main__":
    main()
