"""How fast documents are read and changed without a model: scroll, count, update, copy, export and load again.

    python -m benchmarks.documents --documents 100000

A service of its own on Qdrant Edge in an empty folder. Documents come with random embeddings, so nothing is embedded.
"""

from __future__ import annotations

import argparse
import base64
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson

from benchmarks.machine import Machine
from benchmarks.servers import start_ret2
from service.client.client import Client

_CHUNK = 256
_SINGLE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--updates", type=int, default=20_000)
    arguments = parser.parse_args()
    print(Machine.read())
    with tempfile.TemporaryDirectory() as folder, start_ret2("bundled:everyday") as url, Client(url) as client:
        run(client, url, arguments.documents, arguments.updates, Path(folder))


def run(client: Client, url: str, documents: int, updates: int, folder: Path) -> None:
    collection = client.create_collection("c", indexes={"brand": "keyword", "price": "number"})
    rate("posted with embeddings", documents, lambda: post(client, documents, collection.fingerprint))
    rate("scrolled in pages of 1,000", documents, lambda: scroll(client, with_vector=False))
    rate("scrolled with embeddings", documents, lambda: scroll(client, with_vector=True))
    half = {"field": "price", "lt": 500}
    client.count("c", filter=half)
    times = [seconds(lambda: client.count("c", filter=half)) for _ in range(10)]
    print(f"{'count with a filter, median':40} {median(times) * 1e3:10.1f} ms")
    chosen = random.Random(1).sample(range(documents), updates)
    rate("updated by id", updates, lambda: update(client, chosen))
    rate("updated by a filter", updates, lambda: update_matching(client, updates))
    times = [seconds(partial(patch, url, number)) for number in range(_SINGLE)]
    print(f"{'PATCH of one document, wait=true, median':40} {median(times) * 1e3:10.1f} ms")
    rate("copied", documents, lambda: client.wait_job(client.copy_collection("c", "copy").id))
    command = [sys.executable, "-m", "service"]
    file = folder / "c.jsonl"
    export = [*command, "export", "c", str(file), "--url", url]
    rate("exported", documents, lambda: subprocess.run(export, check=True, capture_output=True))
    file.unlink()
    rate(
        "exported with embeddings",
        documents,
        lambda: subprocess.run([*export, "--vectors"], check=True, capture_output=True),
    )
    load = [*command, "load", str(file), "-c", "again", "--url", url]
    rate("loaded with embeddings", documents, lambda: subprocess.run(load, check=True, capture_output=True))


def rate(name: str, documents: int, work: Callable[[], object]) -> None:
    took_s = seconds(work)
    print(f"{name:40} {documents / took_s:10,.0f} /s   ({documents:,} in {took_s:.1f} s)", flush=True)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def post(client: Client, count: int, fingerprint: str) -> None:
    dimensions = client.collection("c").dimensions
    client.load("c", shop(count, dimensions, fingerprint)).require_all()


def shop(count: int, dimensions: int, fingerprint: str) -> Iterator[dict[str, Any]]:
    """Yield documents of a shop: a line of text, five fields, a random embedding."""
    random_numbers = np.random.default_rng(1)
    for number in range(count):
        yield {
            "id": f"article-{number}",
            "text": f"article {number} of a shop, in red or blue, for the home or the garden",
            "metadata": {
                "price": number % 1000,
                "brand": f"brand {number % 50}",
                "stock": number % 7,
                "place": number,
                "sizes": [36, 37, 38],
            },
            "vector": base64.b64encode(random_numbers.standard_normal(dimensions).astype("<f4").tobytes()).decode(),
            "fingerprint": fingerprint,
        }


def scroll(client: Client, *, with_vector: bool) -> None:
    """Read every page and parse its JSON, as any client does."""
    cursor: str | None = None
    while True:
        body = {"limit": 1000, "with_vector": with_vector} | ({"cursor": cursor} if cursor else {})
        page = orjson.loads(client._request("POST", "/collections/c/documents/scroll", body).content)
        cursor = page["cursor"]
        if cursor is None:
            return


def update(client: Client, numbers: list[int]) -> None:
    changes = [{"id": f"article-{number}", "metadata": {"price": number % 999, "sale": True}} for number in numbers]
    for posted in client.update_documents("c", changes):
        assert posted.job is not None
        assert client.wait_job(posted.job.id).indexed == posted.sent


def update_matching(client: Client, count: int) -> None:
    job = client.wait_job(client.update_matching("c", {"field": "place", "lt": count}, {"season": "spring"}).id)
    assert job.indexed == count


def patch(url: str, number: int) -> None:
    with Client(url) as client:
        answer = client._request(
            "PATCH",
            f"/collections/c/documents/article-{number}",
            {"metadata": {"one": number}},
            params={"wait": "true"},
        )
        assert orjson.loads(answer.content)["job"]["indexed"] == 1


if __name__ == "__main__":
    main()
