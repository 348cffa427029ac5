"""The demo's question over photographs: a few, loaded as `ret2 load` loads a folder of pictures, by the model
everyday."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from indexer.imports.photos import FIELDS, read_photos
from model.errors import InvalidInput, NotFound
from service.cli.tables import print_answer
from service.client.client import Client

COLLECTION, MODEL = "photographs", "everyday"
FOLDER = Path(__file__).parents[2] / "datasets" / "photographs"
QUESTION, RIGHT = "a cat", "cat.jpg"


def fill(client: Client, console: Console) -> None:
    """Load what is missing: a few pictures, so that a second start looks at all of them."""
    try:
        collection = client.collection(COLLECTION)
        if not collection.compatible:
            console.print("the photographs were indexed by another model: indexing them again")
            client.delete_collection(COLLECTION)
    except NotFound:
        pass
    client.create_collection(COLLECTION, model=MODEL, indexes=FIELDS)
    loaded = client.load(COLLECTION, _documents())
    loaded.require_all()
    console.print(f"collection {COLLECTION}: {loaded.indexed} new, {loaded.skipped} were there")


def _documents() -> Iterator[dict[str, Any]]:
    for photo in read_photos(FOLDER):
        if isinstance(photo.document, InvalidInput):
            raise photo.document
        # The text beside them is left out.
        if photo.document is not None:
            yield photo.document


def ask(client: Client, console: Console) -> bool:
    """Ask for the cat, and return whether it comes first."""
    result = client.search(COLLECTION, QUESTION, limit=3)
    right = bool(result.hits) and result.hits[0].id == RIGHT
    heading = f"[bold]A question over photographs[/bold], by the model {MODEL}: “{QUESTION}”"
    print_answer(console, heading, result, right=right)
    return right
