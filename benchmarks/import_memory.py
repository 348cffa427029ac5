"""`python -m benchmarks.import_memory [10000 100000 …]`: imports of Parquet files of so many rows, one after the other into one server.

What is looked at is the peak memory of the server, whose worker reads, embeds and indexes: it must not follow the file. The model is of toy
size, the texts are short; the rate says what ledger, store and reading allow, not what a model does.
"""

from __future__ import annotations

import argparse
import itertools
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.checkpoints import Fusion, ret2_folder
from benchmarks.inputs import texts
from benchmarks.machine import Machine
from benchmarks.servers import start_ret2
from service.client.client import Client

SIZES = (20_000, 100_000, 1_000_000)
_GROUP = 20_000  # rows of a row group
_BATCH_COST = 8_192  # fixed: a measured one differs from start to start


@dataclass(frozen=True, slots=True)
class Imported:
    """One file: its size, how long it took, and the highest the server's memory has been since its start."""

    rows: int
    file_mib: float
    seconds: float
    peak_mib: int

    def __str__(self) -> str:
        return f"| {self.rows:,} | {self.file_mib:.0f} | {self.rows / self.seconds:,.0f} | {self.peak_mib:,} |"


HEADER = "| rows | file, MiB | rows a second | peak of the server, MiB |\n|---|---|---|---|"


def measure(sizes: tuple[int, ...], folder: Path, shape: str = "toy") -> Iterator[Imported]:
    model = ret2_folder(shape, Fusion("import", 3, 1, 256), vocabulary="words")
    flags = (f"--import-roots={folder}", f"--max-batch-cost={_BATCH_COST}")
    with start_ret2(model, *flags, data=folder / "data") as url, Client(url) as client:
        for size in sizes:
            file = _write(folder / f"{size}.parquet", size)
            client.create_collection(f"rows-{size}")
            began = time.perf_counter()
            job = client.wait_job(client.import_files(f"rows-{size}", str(file)).id, timeout_s=float("inf"))
            seconds = time.perf_counter() - began
            if (job.indexed, client.collection(f"rows-{size}").documents) != (size, size):
                raise RuntimeError(f"of {size} rows: {job}")
            yield Imported(size, file.stat().st_size / 2**20, seconds, _peak_mib(folder / "data"))


def _write(path: Path, size: int) -> Path:
    words = itertools.cycle(texts(997))
    with pq.ParquetWriter(
        path, pa.schema([("id", pa.string()), ("text", pa.string()), ("number", pa.int64())])
    ) as writer:
        for first in range(0, size, _GROUP):
            numbers = range(first, min(first + _GROUP, size))
            rows = {
                "id": [f"row-{n}" for n in numbers],
                "text": [f"{next(words)} {n}" for n in numbers],
                "number": list(numbers),
            }
            writer.write_table(pa.table(rows))
    return path


def _peak_mib(data: Path) -> int:
    """Of the server over `data`; its Edge process is another one."""
    for status in Path("/proc").glob("[0-9]*/status"):
        command = (status.parent / "cmdline").read_bytes().split(b"\0")
        if b"serve" in command and str(data).encode() in command:
            return int(re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[0]) // 1024
    raise RuntimeError("needs Linux: the peak of a process is read from /proc")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_memory", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    sizes = parser.parse_args().sizes
    print(f"{Machine.read()}\n\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ret2-import-") as folder:
        for one in measure(tuple(sizes), Path(folder)):
            print(one, flush=True)


if __name__ == "__main__":
    main()
