"""A batch job: post a Parquet file of documents, wait, and account for every row. Made for cron, Airflow and the like.

    python examples/batch_job.py products.parquet --collection shop

The file has columns `id`, and `text`, `image` (a URL, a data URI or the file's bytes) or both; every other column becomes metadata. What
could not be indexed is written to products.failures.jsonl, with the reason. A job that broke off, or had failures, is simply run again:
rows that are in the index unchanged are skipped. Exit status: 0 when every row is in the index, 1 when not, each told by its row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from service.client.client import DEFAULT_URL, Client

ROWS = 256  # read at once: the file may be larger than memory


def documents(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS):
            for row in batch.to_pylist():
                fields = {name: row.pop(name) for name in ("id", "text", "image") if row.get(name) is not None}
                yield {**fields, "metadata": {name: value for name, value in row.items() if value is not None}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--url", default=DEFAULT_URL)
    given = parser.parse_args()
    with Client(
        given.url, attempts=1000, give_up_after_s=600
    ) as client:  # patient: a busy service says when to come back
        client.create_collection(given.collection)
        loaded = client.load(given.collection, documents(given.file), on_progress=progress)
    failed = [{"row": one.position, "id": one.id, "code": one.code, "detail": one.detail} for one in loaded.rejected]
    failed += [{"row": one.position, "id": one.id, "code": one.code, "detail": one.detail} for one in loaded.failures]
    given.file.with_suffix(".failures.jsonl").write_text("".join(json.dumps(one) + "\n" for one in failed))
    print(f"{loaded.sent} rows: {loaded.indexed} indexed, {loaded.skipped} skipped, {len(failed)} failed")
    return 1 if failed or loaded.left else 0


def progress(done: int) -> None:
    print(f"{done} done", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
