"""A folder of your own pictures, searchable in one command.

    python examples/photos.py ~/Pictures "a dog on the beach"
    python examples/photos.py ~/Pictures --image another.jpg
    python examples/photos.py ~/Pictures "at night" --image another.jpg --filter '{"field": "taken", "gte": "2024-01-01T00:00:00Z"}'

It starts a service that keeps its index in FOLDER/.ret2, or uses the one that --url names, and loads what is new: a second run takes
seconds. A picture's document id is its path in the folder. The default model knows objects, animals and scenes; for more set RET2_MODELS to
one made for photographs (docs/models.md, docs/training.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError
from rich.console import Console

from service.cli.demo import running_service
from service.cli.tables import hits_table
from service.client.client import Client

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
COLLECTION = "photos"


def photos(folder: Path) -> Iterator[dict[str, Any]]:
    """A document for each picture; what is none is left out and told."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        name = path.relative_to(folder)
        try:
            yield {"id": name.as_posix(), "image": path, "metadata": described(path, name)}
        except (OSError, UnidentifiedImageError) as error:
            print(f"left out {name}: {error}")


def described(path: Path, name: Path) -> dict[str, Any]:
    """What can be filtered by: folder, size, and when it was taken where the camera wrote that down."""
    with Image.open(path) as image:
        width, height = image.size
        taken = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
    metadata: dict[str, Any] = {"folder": name.parent.as_posix(), "width": width, "height": height}
    with suppress(ValueError):
        metadata["taken"] = datetime.strptime(str(taken), "%Y:%m:%d %H:%M:%S").isoformat() + "Z"  # cameras name no zone
    return metadata


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
        client.create_collection(COLLECTION)
        loaded = client.load(COLLECTION, photos(given.folder))
        failed = [one.detail for one in loaded.rejected] + [one.detail for one in loaded.failures]
        console.print(f"{loaded.indexed} new, {loaded.skipped} known, {len(failed)} failed")
        for reason in failed:
            console.print(f"  {reason}", markup=False)
        if given.question or given.image:
            found = client.search(COLLECTION, given.question, given.image, filter=given.filter, limit=given.limit)
            console.print(hits_table(found.hits))


if __name__ == "__main__":
    main()
