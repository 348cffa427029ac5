"""Reading checkpoints of models with a cell: our own, ReT v1 and published ReT-2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model import preprocess
from model.checkpoints import ret2_published, ret_v1
from model.checkpoints.dual import read_dual
from model.checkpoints.foreign import other_kind
from model.checkpoints.sources import find, locate
from model.checkpoints.weights import CONFIG_FILE, fingerprint, load_strict, read_weights, weight_files
from model.config import BackboneConfig, Ret2Config
from model.errors import InvalidInput
from model.parts import Location, Parts
from model.ret2 import build_fusion
from model.score_fusion import FusionWeights
from model.towers.tapped import TappedTower
from model.towers.tokenizers import TOKENIZER_FILE, read_tokenizer
from model.towers.towers import Modality, TransformersTower, build_document_towers, build_towers, with_prefix


def read_own(location: Location, raw: Mapping[str, Any]) -> Parts:
    return _assemble(Ret2Config.from_json(raw), read_weights(location.folder), location.folder)


def read_v1(location: Location, raw: Mapping[str, Any]) -> Parts:
    config = ret_v1.convert_config(raw)
    return _assemble(config, ret_v1.convert_tensors(config, read_weights(location.folder)), location.folder)


def read_published(location: Location, raw: Mapping[str, Any]) -> Parts:
    tensors = read_weights(location.folder)
    if not any("ret_cell." in key for key in tensors):
        raise InvalidInput(other_kind(str(location.folder), raw.get("model_type")), field="model")
    config, tensors = ret2_published.convert(raw, tensors)
    return _assemble(config, tensors, location.folder)


def untrained(config: Ret2Config) -> Parts:
    """Return pretrained towers with a cell of fresh weights."""
    if config.global_features == "base":
        return build_on_dual(config, _read_base(config, None), None)
    folders = _tower_folders(config, None)
    return _build(config, folders, {}, [folders["text"]], [])


def build_on_dual(config: Ret2Config, base: Parts, folder: Path | None) -> Parts:
    """Return the towers of a dual encoder, with taps, and a fresh cell. `folder` is the checkpoint's."""
    weights: FusionWeights = next(iter(base.sides.values())).weights  # type: ignore[assignment]
    if config.dimensions != base.config.dimensions:
        raise InvalidInput(
            f"{base.config.name} has {base.config.dimensions} dimensions, the cell that is added to it has "
            f"{config.dimensions}: set output_size to {base.config.dimensions}",
            field="output_size",
        )
    text = TappedTower(base.text_tower, config.text.layers, "text")
    vision = TappedTower(base.vision_tower, config.vision.layers, "vision")
    parts = {"config": config.to_json(), "base": base.fingerprint}
    weights_of_cell = [] if folder is None else weight_files(folder)
    return Parts(
        config=replace(config, image=base.config.image, max_text_tokens=base.config.max_text_tokens),
        text_tower=text,
        vision_tower=vision,
        sides={"shared": build_fusion(config, text.widths, vision.widths, weights).requires_grad_(False)},
        preprocessor=base.preprocessor,
        fingerprint=fingerprint(parts, weights_of_cell, preprocess.VERSION),
        files=[*base.files, *weights_of_cell],
    )


def _read_base(config: Ret2Config, folder: Path | None) -> Parts:
    return read_dual(find(config.text.source, config.text.revision, folder))


def _assemble(config: Ret2Config, tensors: dict[str, Tensor], folder: Path) -> Parts:
    """Return towers and sides with their weights. `tensors` has our names; a name without a place is an error."""
    folders = _tower_folders(config, folder)
    prefixes = (*side_prefixes(config), *(f"{modality}." for modality, path in folders.items() if path is None))
    prefixes += () if config.shared_text_tower else ("document_text.",)
    prefixes += () if config.shared_vision_tower else ("document_vision.",)
    if unknown := [key for key in tensors if not key.startswith(prefixes)]:
        raise InvalidInput(f"{folder.name}: {len(unknown)} weights have no place, the first is {sorted(unknown)[0]}")
    if config.global_features == "base":
        parts = build_on_dual(config, _read_base(config, folder), folder)
    else:
        parts = _build(config, folders, tensors, [folder, folders["text"]], weight_files(folder))
    for prefix in side_prefixes(config):
        name = prefix.rstrip(".")
        load_strict(parts.sides[name], with_prefix(tensors, prefix), f"{folder.name}: {name} cell")
    return parts


def _build(
    config: Ret2Config,
    folders: Mapping[Modality, Path | None],
    tensors: dict[str, Tensor],
    tokenizer_places: Sequence[Path | None],
    weights: Sequence[Path],
) -> Parts:
    text, vision = build_towers(config, folders, tensors)
    sides = {
        prefix.rstrip("."): build_fusion(config, text.widths, vision.widths).requires_grad_(False)
        for prefix in side_prefixes(config)
    }
    document_towers = build_document_towers(config, tensors)
    text_towers = [text, *(tower for name, tower in document_towers.items() if name == "text")]
    tokenizer, tokenizer_files = read_tokenizer(text_towers, [place for place in tokenizer_places if place])
    preprocessor = preprocess.Preprocessor(
        tokenizer=tokenizer or _NoTokenizer(),
        max_text_tokens=config.max_text_tokens,
        image=config.image,
        patches=vision.patches,
        reads_text=tokenizer is not None,
        text_positions=text.full_length if isinstance(text, TransformersTower) else None,
    )
    files = [*weights, *tokenizer_files]
    files += [
        path
        for place in folders.values()
        if place
        for path in place.glob("*")
        if path.suffix in (".safetensors", ".pth") or path.name == CONFIG_FILE
    ]
    return Parts(
        config=config,
        text_tower=text,
        vision_tower=vision,
        sides=sides,
        preprocessor=preprocessor,
        fingerprint=fingerprint(config.to_json(), files, preprocess.VERSION),
        files=files,
        document_towers=document_towers,
    )


def side_prefixes(config: Ret2Config) -> tuple[str, ...]:
    return ("shared.",) if config.shared_sides else ("query.", "document.")


def _tower_folders(config: Ret2Config, checkpoint: Path | None) -> dict[Modality, Path | None]:
    """Return the folder of each tower's weights, None if the checkpoint itself contains them."""
    parts: tuple[tuple[Modality, BackboneConfig], ...] = (("text", config.text), ("vision", config.vision))
    for modality, part in parts:
        if part.source.startswith("hub:") and not part.revision and "@" not in part.source:
            raise InvalidInput(
                f"{modality}.source is {part.source!r} without a revision, but a cell works only with the "
                f"weights it was trained on: set {modality}.revision in config.json to their commit",
                field=f"{modality}.revision",
            )
    return {
        modality: None if part.source == "checkpoint" else locate(part.source, part.revision, checkpoint)
        for modality, part in parts
    }


class _NoTokenizer:
    """The tokeniser of a checkpoint that has none, which can be verified but cannot encode text."""

    def encode(self, sequence: Any, /) -> preprocess.Encoding:
        raise InvalidInput(
            f"this checkpoint has no {TOKENIZER_FILE}, so text of {len(sequence)} characters cannot be encoded"
        )

    def encode_batch(self, sequences: Any, /) -> Sequence[preprocess.Encoding]:
        return [self.encode(sequence) for sequence in sequences]
