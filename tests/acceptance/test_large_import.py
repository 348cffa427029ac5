"""A Parquet file of 60,000 rows in a real process with a tiny model: memory as with 10,000, and `kill -9` repeats next to nothing."""

import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from needs import needed

from indexer.domain.jobs import Job, JobState
from service.client.client import Client

needed("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

FEW, MANY = 10_000, 60_000
UNIT = 1_000
GROUP = 10_000  # rows of a row group, each of which is cut into units
# Of some 1,000 MiB: allocators keep what they once had. The notes of the larger file alone are 280 MiB more.
MAY_GROW_BYTES = 128 * 2**20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def rows(count: int, first: int) -> pa.Table:
    numbers = range(first, first + count)
    words = ("red", "green", "blue", "square", "country", "flag", "capital")
    texts = [f"{words[n % 7]} {words[n // 7 % 7]} {words[n // 49 % 7]} {n}" for n in numbers]
    notes = ["of the " * 800 for _ in numbers]  # bytes to carry that cost no encoding
    return pa.table({"id": [f"row-{n}" for n in numbers], "text": texts, "n": list(numbers), "note": notes})


def write(path: Path, count: int) -> Path:
    first = rows(1, 0)
    with pq.ParquetWriter(path, first.schema) as writer:
        for start in range(0, count, GROUP):
            writer.write_table(rows(min(GROUP, count - start), start))
    return path


@pytest.fixture
def serve_imports(serve: Any, model: Path, tmp_path: Path) -> Any:
    # A batch of fixed size: the measured one differs from start to start, and memory with it.
    serve.flags = [f"--model={model}", f"--import-roots={tmp_path}", "--threads=1", "--max-batch-cost=8192"]
    return serve


def peak_bytes(process: Any) -> int:
    """Of the whole life of a process so far."""
    status = Path(f"/proc/{process._child.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def until(client: Client, job_id: str, documents: int) -> Job:
    while (job := client.job(job_id)).indexed < documents:
        assert not job.state.finished, job
        time.sleep(0.2)
    return job


def test_memory_is_flat_and_kill_9_repeats_at_most_a_unit(serve_imports: Any, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux: the peak of a process is read from /proc")
    serve = serve_imports
    client: Client = serve.start()
    client.create_collection("few")
    few = client.import_files("few", str(write(tmp_path / "few.parquet", FEW)))
    assert client.wait_job(few.id, timeout_s=3000).indexed == FEW
    small = peak_bytes(serve)
    assert client.collection("few").documents == FEW

    client.create_collection("many")
    many = client.import_files("many", str(write(tmp_path / "many.parquet", MANY)), idempotency_key="many")
    assert until(client, many.id, MANY // 2).accepted == MANY
    large = peak_bytes(serve)
    serve.send(signal.SIGKILL)

    client = serve.start()
    assert client.import_files("many", str(tmp_path / "many.parquet"), idempotency_key="many").id == many.id
    job = client.wait_job(many.id, timeout_s=4000)
    print(f"peak of {FEW:,} rows {small / 2**20:.0f} MiB, of {MANY:,} {max(large, peak_bytes(serve)) / 2**20:.0f} MiB")
    print(f"{job.skipped} documents were done again after kill -9")
    assert job.state is JobState.SUCCEEDED
    assert (job.accepted, job.indexed + job.skipped, job.failed) == (MANY, MANY, 0)
    assert job.skipped <= UNIT
    assert client.collection("many").documents == MANY
    for number in (0, GROUP - 1, MANY // 2, MANY - 1):
        document = client.document("many", f"row-{number}")
        assert document.metadata["n"] == number
    assert max(large, peak_bytes(serve)) < small + MAY_GROW_BYTES
