"""Files of weights: how they are read, and that every key and shape fits. Safetensors only; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from model.errors import InvalidInput

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"  # of weights in several files: {"weight_map": {weight: file}}
# What weights are pickled in, and what no reader here knows.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OTHER_FORMATS = (".safetensors", ".h5", ".msgpack", ".onnx", ".gguf", ".npz", ".tflite")
_EFFICIENTNET_FILE = "efficientnet-lite0-57934424.pth"


def read_config(folder: Path, name: str = CONFIG_FILE) -> dict[str, Any]:
    """Read `config.json` of a checkpoint folder, or another JSON file in it."""
    path = folder / name
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", field="model") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not JSON: it is no UTF-8 text", field="model") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}", field="model") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} holds {type(value).__name__}, expected an object", field="model")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the files with a checkpoint's weights: `model.safetensors`, or every file that its index names.

    Raises `InvalidInput` with what the folder contains instead and what to do.
    """
    if (folder / INDEX_FILE).exists():
        return _indexed_files(folder)
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE]
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        raise InvalidInput(only_pickles(str(folder), pickles), field="model")
    other_formats = [name for name in names if name.endswith(_OTHER_FORMATS)]
    instead = f" (found {', '.join(other_formats[:5])})" if other_formats else ""
    raise InvalidInput(
        f"{folder} has no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE}{instead}. "
        "Copy or download the whole model, with its safetensors files",
        field="model",
    )


def only_pickles(name: str, files: Sequence[str]) -> str:
    """Return the message for a model whose weights are pickled."""
    return (
        f"{name} has only pickled weights ({', '.join(files[:5])}), and a pickle can run code, so it is never loaded. "
        "Where you trust it, open it with the library that wrote it, save it with save_pretrained (which writes "
        "safetensors), and name that folder"
    )


def _indexed_files(folder: Path) -> list[Path]:
    table = read_config(folder, INDEX_FILE).get("weight_map")
    if not isinstance(table, Mapping) or not table or not all(isinstance(name, str) for name in table.values()):
        raise InvalidInput(f"{folder / INDEX_FILE} has no weight_map of weights and files", field="model")
    names = sorted(set(table.values()))
    if strange := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise InvalidInput(
            f"{folder / INDEX_FILE} names {strange[0]!r}, expected a safetensors file beside it", field="model"
        )
    if missing := [name for name in names if not (folder / name).exists()]:
        raise InvalidInput(
            f"{folder} lacks {len(missing)} of its {len(names)} weight files: {', '.join(missing[:5])}. "
            "Download the missing files, or the whole model again",
            field="model",
        )
    return [folder / name for name in names]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read every weight of a checkpoint, from one file or several."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors |= read_tensors(path)
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise InvalidInput(f"{path}: {error}", field="model") from error
    except safetensors.SafetensorError as error:
        raise InvalidInput(incomplete(str(path), error), field="model") from error


def incomplete(file: str, error: safetensors.SafetensorError) -> str:
    """Return the message for a file of weights that is cut short, or something else."""
    return f"{file} is no complete safetensors file ({error}): copy or download it again"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file, completely or not at all: to a temporary file that is then renamed."""
    contiguous = {key: value.detach().cpu().contiguous() for key, value in sorted(tensors.items())}
    temporary = path.with_name(f".{path.name}.part")
    safetensors.torch.save_file(contiguous, temporary, metadata={"format": "pt"})
    temporary.replace(path)


def write_whole(path: Path, text: str) -> None:
    """Write a text file completely or not at all, as `save_tensors` does."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    temporary.replace(path)


def save_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Save a checkpoint. float32 tensors are stored as float16, which halves the file; loading widens them again.

    If it is interrupted, the folder has the previous checkpoint, this one, or no weights, but never weights that belong
    to another configuration.
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


def misfits(where: str, problems: Sequence[str]) -> str:
    """Return the message for weights that are missing, that have no place, or whose shape is another."""
    count = "1 weight does" if len(problems) == 1 else f"{len(problems)} weights do"
    return (
        f"{where}: {count} not fit: {'; '.join(problems[:20])}. The weights and {CONFIG_FILE} are not those of one "
        "model: copy or download both again"
    )


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a module. Raises `InvalidInput` with every key and shape that does not fit."""
    expected_shapes = {
        key: tuple(value.shape) for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    actual_shapes = {
        key: tuple(value.shape)
        for key, value in tensors.items()
        if not key.endswith(("num_batches_tracked", "position_ids"))
    }
    problems = [
        f"missing {key} {expected_shapes[key]}" for key in sorted(expected_shapes.keys() - actual_shapes.keys())
    ]
    problems += [
        f"unexpected {key} {actual_shapes[key]}" for key in sorted(actual_shapes.keys() - expected_shapes.keys())
    ]
    problems += [
        f"{key} is {actual_shapes[key]}, expected {expected_shapes[key]}"
        for key in sorted(expected_shapes.keys() & actual_shapes.keys())
        if expected_shapes[key] != actual_shapes[key]
    ]
    if problems:
        raise InvalidInput(misfits(where, problems), field="model")
    module.load_state_dict({key: tensors[key].to(torch.float32) for key in expected_shapes}, strict=False)


def read_efficientnet_lite0(folder: Path) -> dict[str, Tensor]:
    """Read the weights from `model.safetensors`, or from the published `.pth` file without unpickling it.

    The published file is identified by its hash, so the position of each tensor is known:
    `efficientnet_lite0.index.json` holds it, as the header of a safetensors file would.
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
    """Return the SHA-256 (hex) of the configuration, every weight and tokeniser file, and the version of the
    preprocessing."""
    digest = hashlib.sha256(json.dumps([config, preprocessing], sort_keys=True).encode())
    for path in sorted(files, key=lambda file: (file.name, file.stat().st_size)):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
