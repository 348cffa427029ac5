"""Move a collection to another model while it is searched and written, and keep the new one only if it answers at least as well.

    ret2 serve --model bundled:everyday --model new=/models/new    # the service, with both models
    python examples/upgrade_model.py shop questions.jsonl          # {"text": "in blue?", "image": "shoe.jpg", "id": "the right one"} a line

Recall@10 of the questions is measured before, and again once the new model serves. If it has fallen by more than --may-lose, the previous
generation, which has seen every write meanwhile, serves again. Exit status: 0 when the new model stays, 1 when it was rolled back.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from service.client.client import DEFAULT_URL, Client

K = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--may-lose", type=float, default=0.01)
    parser.add_argument("--url", default=DEFAULT_URL)
    given = parser.parse_args()
    asked = [json.loads(line) for line in given.questions.read_text().splitlines()]
    with Client(given.url) as client:
        old, before = (
            client.collection(given.collection).model,
            recall(client, given.collection, asked, given.questions.parent),
        )
        job = client.wait_job(client.reindex(given.collection).id, timeout_s=float("inf"))
        if job.failed or job.state != "succeeded":
            raise SystemExit(f"the reindex is {job.state} with {job.failed} failures: ret2 jobs {job.id}")
        new, after = (
            client.collection(given.collection).model,
            recall(client, given.collection, asked, given.questions.parent),
        )
        print(f"recall@{K} of {len(asked)} questions: {before:.3f} with {old}, {after:.3f} with {new}")
        if after >= before - given.may_lose:
            client.finish_reindex(given.collection)
            print(f"{new} stays")
            return 0
        client.roll_back_reindex(given.collection)
        while client.collection(given.collection).model != old:
            time.sleep(0.1)
        print(f"{old} serves again")
        return 1


def recall(client: Client, collection: str, asked: list[dict[str, Any]], folder: Path) -> float:
    found = 0
    for one in asked:
        image = folder / one["image"] if "image" in one else None
        hits = client.search(collection, text=one.get("text"), image=image, limit=K).hits
        found += one["id"] in {hit.id for hit in hits}
    return found / len(asked)


if __name__ == "__main__":
    raise SystemExit(main())
