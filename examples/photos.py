"""A folder of your own pictures, searchable in one command.

    python examples/photos.py ~/Pictures "a dog on the beach"
    python examples/photos.py ~/Pictures --image another.jpg
    python examples/photos.py ~/Pictures "at night" --image another.jpg --filter '{"field": "taken", "gte": "2024-01-01T00:00:00Z"}'

It starts a service that keeps its index in FOLDER/.ret2, or uses the one that --url names, and loads what is new, as `ret2 load
FOLDER -c photos` does: a second run takes seconds. A picture's document id is its path in the folder. The default model knows objects,
animals and scenes; for more set RET2_MODELS to one made for photographs (docs/models.md, docs/training.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from indexer.imports.photos import FIELDS, read_photos
from model.errors import InvalidInput
from service.cli.demo import running_service
from service.cli.tables import hits_table
from service.client.client import Client

COLLECTION = "photos"


def photos(folder: Path) -> Iterator[dict[str, Any]]:
    """A document for each picture; what cannot be read is told."""
    for photo in read_photos(folder):
        if isinstance(photo.document, InvalidInput):
            print(photo.document.detail)
        elif photo.document is not None:
            yield photo.document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("question", nargs="?")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--filter", type=json.loads)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--url", help="a service that runs; without: one is started")
    given = parser.parse_args()
    console = Console()
    service = nullcontext(given.url) if given.url else running_service(console, 8080, given.folder / ".ret2")
    with service as url, Client(url) as client:
        client.create_collection(COLLECTION, indexes=FIELDS)
        loaded = client.load(COLLECTION, photos(given.folder))
        failed = [rejection.detail for rejection in loaded.rejected] + [failure.detail for failure in loaded.failures]
        console.print(f"{loaded.indexed} new, {loaded.skipped} known, {len(failed)} failed")
        for reason in failed:
            console.print(f"  {reason}", markup=False)
        if given.question or given.image:
            found = client.search(COLLECTION, given.question, given.image, filter=given.filter, limit=given.limit)
            console.print(hits_table(found.hits))


if __name__ == "__main__":
    main()
