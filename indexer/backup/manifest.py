"""The manifest of a backup: versions, counts, and a checksum of each file. It is written last, so that half a backup
has none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from indexer.durability import sync, sync_tree
from model.errors import Conflict, InvalidInput, NotFound

FORMAT = 1
NAME = "manifest.json"
IMAGES = "blobs"  # folder of files whose names are their checksums


@dataclass(frozen=True, slots=True)
class SavedPoints:
    """One generation of a collection."""

    collection: str
    name: str  # in the store
    file: str
    fingerprint: str
    model: str
    dimensions: int
    documents: int
    indexes: dict[str, str]  # declared types of metadata fields
    language: str  # of the words of texts
    latents: bool
    # How a Qdrant server kept it, but for shards and copies, which are those of the cluster restored to.
    server: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SavedFile:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`images_included`: they are in the folder; else they stay where they are, and a restoration looks whether they
    are there.
    """

    version: str
    schema: int
    created_at: float
    points: tuple[SavedPoints, ...]
    images: int
    images_included: bool
    files: dict[str, SavedFile] = field(default_factory=dict)
    format: int = FORMAT


def make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty: each backup has a folder of its own")
        (folder / "points").mkdir()
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error


def read(folder: Path) -> Manifest:
    """Read the manifest. Raises `NotFound` if there is none, because the backup was never finished, and `InvalidInput`
    if it cannot be read."""
    file = folder / NAME
    try:
        values = json.loads(file.read_text())
        if values["format"] != FORMAT:
            raise InvalidInput(f"{file} has format {values['format']}, this version of ret2 reads {FORMAT}")
        values["points"] = tuple(SavedPoints(**entry) for entry in values["points"])
        values["files"] = {name: SavedFile(**entry) for name, entry in values["files"].items()}
        return Manifest(**values)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{folder} has no {NAME}: it is no backup, or one that was broken off") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InvalidInput(f"{file} cannot be read: {type(error).__name__}") from error


def checksums(folder: Path) -> dict[str, SavedFile]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.parent != folder / IMAGES)
    return {str(path.relative_to(folder)): _checked(path) for path in files}


def _checked(file: Path) -> SavedFile:
    with file.open("rb") as content:
        return SavedFile(file.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest())


def check(folder: Path, manifest: Manifest, needed: Iterable[str]) -> None:
    """Check the needed files. Raises `InvalidInput` for a file that has changed or is missing from the manifest."""
    if unknown := sorted(set(needed) - manifest.files.keys()):
        raise InvalidInput(f"{folder / NAME} has no checksum of {unknown[0]}")
    for name, saved in manifest.files.items():
        try:
            present = _checked(folder / name)
        except OSError as error:
            raise InvalidInput(f"{folder / name} is missing from the backup: {error.strerror}") from error
        if present != saved:
            raise InvalidInput(
                f"{folder / name} is damaged: {present.size_bytes} bytes with checksum {present.sha256[:12]}, "
                f"the manifest has {saved.size_bytes} and {saved.sha256[:12]}"
            )


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest in one step, after everything else is on disk."""
    sync_tree(folder)
    new = folder / f".{NAME}"
    new.write_text(json.dumps(asdict(manifest), indent=1) + "\n")
    sync(new)
    new.rename(folder / NAME)
    sync(folder)
