"""What a compiled model needs beside its graphs, kept with them, so that a later start builds no modules.

To build the modules of a tower and to read their weights takes transformers' modelling code: most of the time of a
start, and memory that is never given back. An outline is used while every file that it was made from has the content
that it had then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from model.config import ImageConfig, read_fields
from model.errors import InvalidInput
from model.parts import Location
from model.preprocess import Preprocessor

OUTLINE_FILE = "outline.json"


@dataclass(frozen=True, slots=True)
class TowerOutline:
    """A compiled tower beside its graph. `convolves`: what `CompiledTower` says of it."""

    convolves: bool


@dataclass(frozen=True, slots=True)
class SideOutline:
    """A side: the names of the kinds of inputs that it has graphs for, or the weights of a score fusion."""

    kinds: tuple[str, ...] = ()
    weights: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class CompiledConfig:
    """A model's configuration, as far as serving it needs."""

    name: str
    dimensions: int
    latents: int
    gated_steps: int
    image: ImageConfig
    max_text_tokens: int
    shorter: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outline:
    """A model without its graphs. `info` is in no precision and of no commit."""

    config: CompiledConfig
    fingerprint: str
    preprocessor: Preprocessor
    towers: dict[str, TowerOutline]
    sides: dict[str, SideOutline]

    @property
    def document_towers(self) -> list[str]:
        prefix = "document_towers."
        return [name.removeprefix(prefix) for name in self.towers if name.startswith(prefix)]


def save_outline(outline: Outline, location: Location, files: Iterable[Path], folder: Path) -> None:
    """Keep an outline beside its graphs. A folder that cannot be written costs only time."""
    files = _with_settings(location, files)
    preprocessor = outline.preprocessor
    said = {
        "folder": str(location.folder.absolute()),
        "name": location.name,
        "files": [str(path) for path in files],
        "digest": _digest(files),
        "fingerprint": outline.fingerprint,
        "config": asdict(outline.config),
        "tokenizer": cast(Tokenizer, preprocessor.tokenizer).to_str(),
        "patches": preprocessor.patches,
        "text_positions": preprocessor.text_positions,
        "towers": {name: asdict(tower) for name, tower in outline.towers.items()},
        "sides": {name: asdict(side) for name, side in outline.sides.items()},
    }
    draft = folder / f".{OUTLINE_FILE}"
    with suppress(OSError):
        draft.write_text(json.dumps(said))
        draft.replace(folder / OUTLINE_FILE)


def read_outline(location: Location, folders: Iterable[Path]) -> tuple[Outline, Path] | None:
    """Return the outline of the checkpoint at `location` and the folder of its graphs, if there is one that still holds
    for the files of the checkpoint."""
    for folder in folders:
        with suppress(OSError, ValueError, KeyError, TypeError, InvalidInput):
            said = json.loads((folder / OUTLINE_FILE).read_text())
            if (said["folder"], said["name"]) != (str(location.folder.absolute()), location.name):
                continue
            files = [Path(path) for path in said["files"]]
            if files == _with_settings(location, files) and said["digest"] == _digest(files):
                return _outline(said), folder
    return None


def _outline(said: dict[str, Any]) -> Outline:
    config: CompiledConfig = read_fields(CompiledConfig, said["config"], "config")
    return Outline(
        config=config,
        fingerprint=said["fingerprint"],
        preprocessor=Preprocessor(
            tokenizer=Tokenizer.from_str(said["tokenizer"]),
            max_text_tokens=config.max_text_tokens,
            image=config.image,
            patches=said["patches"],
            text_positions=said["text_positions"],
        ),
        towers={name: TowerOutline(**tower) for name, tower in said["towers"].items()},
        sides={name: SideOutline(**side) for name, side in said["sides"].items()},
    )


def _with_settings(location: Location, files: Iterable[Path]) -> list[Path]:
    """Return the files of a checkpoint and those that say how they are read: every JSON file beside one of them."""
    files = [path.absolute() for path in files]
    folders = {location.folder.absolute(), *(path.parent for path in files)}
    return sorted({*files, *(path for folder in folders for path in folder.glob("*.json"))})


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
