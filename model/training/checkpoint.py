"""The checkpoint of a trained model: a folder that `Retriever.load` and `ret2 serve --model` open.

Trained towers lie in `model.safetensors` (`source: checkpoint` and their `architecture`), frozen ones stay where they
were.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoints.sources import locate
from model.checkpoints.weights import save_checkpoint
from model.config import BackboneConfig, Ret2Config
from model.retriever import Retriever
from model.towers.tokenizers import TOKENIZER_FILE
from model.towers.towers import EfficientNetTower, Modality, Tower

# What a tokeniser is read from, new or of before `tokenizer.json` (model.towers.towers reads the same).
_TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_VOCABULARIES = (TOKENIZER_FILE, "vocab.json", "vocab.txt")
# Of a transformers configuration: what says where it came from, or follows from the rest and was for the depth before.
_NOT_ARCHITECTURE = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "stage_names",
    "out_features",
    "out_indices",
    "_out_features",
    "_out_indices",
}
# EfficientNet-Lite's norms are folded into the convolutions before them: which norm belongs to which.
_NORMS = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
_NORM_EPS = 1e-3


def towers(retriever: Retriever) -> dict[str, Tower]:
    """Return every tower by the prefix of its weights in a checkpoint."""
    encoders: dict[str, Any] = {"text": retriever.text_tower, "vision": retriever.vision_tower}
    return encoders | {f"document_{modality}": tower for modality, tower in retriever.document_towers.items()}


def tower_network(tower: Tower) -> nn.Module:
    network: nn.Module = tower.network if isinstance(tower, EfficientNetTower) else tower.encoder
    return network


def save_trained(
    folder: Path, retriever: Retriever, stored: Collection[str], tokenizer_files: Sequence[Path], origin: Path | None
) -> None:
    """Save a trained model. `stored` are the modalities whose towers go into the checkpoint; towers that it held before
    always do.

    `origin` is the checkpoint that the run began with: `folder:` sources that are relative to it become absolute.
    """
    config = saved_config(retriever, stored, origin)
    tensors: dict[str, Tensor] = {
        f"{name}.{key}": value for name, side in retriever.sides.items() for key, value in side.state_dict().items()
    }
    sources = {"text": config.text.source, "vision": config.vision.source}
    for name, tower in towers(retriever).items():
        if sources[name.removeprefix("document_")] == "checkpoint":
            tensors |= {f"{name}.{key}": value for key, value in tower_tensors(tower).items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path in tokenizer_files:
        if path.parent.resolve() != folder.resolve():
            shutil.copyfile(path, folder / path.name)
    save_checkpoint(folder, config.to_json(), tensors)


def saved_config(retriever: Retriever, stored: Collection[str], origin: Path | None) -> Ret2Config:
    config = retriever.ret2_config
    return replace(
        config,
        text=_saved_part(config.text, retriever.text_tower, "text" in stored, origin),
        vision=_saved_part(config.vision, retriever.vision_tower, "vision" in stored, origin),
    )


def _saved_part(part: BackboneConfig, tower: Any, stored: bool, origin: Path | None) -> BackboneConfig:
    if stored or part.source == "checkpoint":
        return replace(part, source="checkpoint", revision=None, architecture=_architecture(tower, part.layers))
    kind, _, location = part.source.partition(":")
    if kind == "folder":
        return replace(part, source=f"folder:{((origin or Path()) / location).resolve()}")
    return part


def _architecture(tower: Tower, layers: tuple[int, ...]) -> Mapping[str, Any] | None:
    """Return the architecture of a tower without the blocks after the last tapped one."""
    if isinstance(tower, EfficientNetTower):
        return None
    config = tower.encoder.config
    architecture = {key: value for key, value in config.to_diff_dict().items() if key not in _NOT_ARCHITECTURE}
    return {**architecture, "model_type": config.model_type, "num_hidden_layers": max(layers) + 1}


def tower_tensors(tower: Tower) -> dict[str, Tensor]:
    """Return a tower's weights under the names that loading expects."""
    tensors = tower_network(tower).state_dict()
    return _with_norms(tensors) if isinstance(tower, EfficientNetTower) else tensors


def _with_norms(folded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write folded convolutions as convolutions without bias, followed by norms that only add the bias. Folding these
    again gives the same."""
    tensors = {}
    for key, value in folded.items():
        path, _, kind = key.rpartition(".")
        parent, _, conv = path.rpartition(".")
        if kind != "bias":
            tensors[key] = value
            continue
        norm = f"{parent}.{_NORMS[conv]}" if parent else _NORMS[conv]
        tensors[f"{norm}.weight"] = torch.ones_like(value)
        tensors[f"{norm}.bias"] = value
        tensors[f"{norm}.running_mean"] = torch.zeros_like(value)
        tensors[f"{norm}.running_var"] = torch.full_like(value, 1 - _NORM_EPS)
    return tensors


def tokenizer_files(config: Ret2Config, origin: Path | None) -> list[Path]:
    """Return the files of the text tower's tokeniser: the checkpoint's own, else those beside the tower. A dual encoder
    to which the cell is added brings its own."""
    if config.global_features == "base":
        return []
    places = [] if origin is None else [origin]
    if config.text.source != "checkpoint":
        places.append(locate(config.text.source, config.text.revision, origin))
    for place in places:
        if any((place / name).exists() for name in _VOCABULARIES):
            return [place / name for name in _TOKENIZER_FILES if (place / name).exists()]
    return []


def modalities(train_text: bool, train_vision: bool, every: bool) -> set[Modality]:
    """Return whose towers a checkpoint holds: the trained ones, or all for a checkpoint that needs nothing else."""
    trained_towers: dict[Modality, bool] = {"text": train_text, "vision": train_vision}
    return {modality for modality, trained in trained_towers.items() if trained or every}
