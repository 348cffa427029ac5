"""The configuration of a model with a fresh cell, over two backbones or over a dual encoder that a user names: layers,
image size and normalisation are read off their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import transformers
from torch import nn

from model.checkpoints.sources import find, locate
from model.checkpoints.weights import CONFIG_FILE
from model.config import BackboneConfig, Family, ImageConfig, Ret2Config
from model.errors import InvalidInput
from model.parts import Location, Parts
from model.towers.efficientnet import BLOCK_CHANNELS, EfficientNetLite0
from model.towers.image_processors import image_config
from model.towers.tapped import network_of, tower_blocks
from model.towers.towers import Modality

_DEFAULT_TEXT_TOKENS = 128  # where a tower could take more: a paragraph; `max_text_tokens` says otherwise
_STEPS = 3
_IMAGENET = ImageConfig(resize="pad", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def fresh_config(
    text: str,
    vision: str,
    *,
    name: str = "ret2-own",
    text_layers: tuple[int, ...] | None = None,
    vision_layers: tuple[int, ...] | None = None,
    max_text_tokens: int | None = None,
    **cell: int,
) -> Ret2Config:
    """Return the configuration of a model with a fresh cell. `text` and `vision` are sources (`folder:PATH`,
    `package:NAME/FOLDER`, `hub:ORG/NAME`); `cell` has sizes of `Ret2Config`.

    Without layers, an early, a middle and the last one are read. Raises `InvalidInput` if a folder is no backbone.
    """
    text_part, text_config = _part(text, "text", text_layers)
    vision_part, vision_config = _part(vision, "vision", vision_layers)
    longest = _DEFAULT_TEXT_TOKENS if text_config is None else _positions(text_config)
    return Ret2Config(
        name=name,
        text=text_part,
        vision=vision_part,
        image=_image(vision_part, vision_config),
        max_text_tokens=max_text_tokens or min(_DEFAULT_TEXT_TOKENS, longest),
        **cast(dict[str, Any], cell),
    )


def config_on_dual(
    base: Parts,
    source: str,
    location: Location,
    *,
    text_layers: tuple[int, ...] | None = None,
    vision_layers: tuple[int, ...] | None = None,
    **cell: int,
) -> Ret2Config:
    """Return the configuration of a cell whose state is added to the embedding of `base`, the model of `source`."""
    kind = source.partition(":")[0]
    if kind == "hub":  # what is trained on it keeps to this commit
        source = f"hub:{location.name}"
    elif kind not in ("bundled", "package"):
        source = f"folder:{location.folder.resolve()}"

    def part(tower: nn.Module, layers: tuple[int, ...] | None) -> BackboneConfig:
        family: Family = "efficientnet_lite0" if isinstance(network_of(tower), EfficientNetLite0) else "transformers"
        return BackboneConfig(family, source, layers or spread(len(tower_blocks(tower))), location.commit)

    return Ret2Config(
        text=part(base.text_tower, text_layers),
        vision=part(base.vision_tower, vision_layers),
        image=base.config.image,
        max_text_tokens=base.config.max_text_tokens,
        global_features="base",
        **cast(dict[str, Any], cell | {"output_size": base.config.dimensions}),
    )


def spread(depth: int, steps: int = _STEPS) -> tuple[int, ...]:
    """Return the last block of each of `steps` equal parts: early, middle, late."""
    return tuple(sorted({max(1, round(depth * part / steps)) - 1 for part in range(1, steps + 1)}))


def _part(source: str, modality: Modality, layers: tuple[int, ...] | None) -> tuple[BackboneConfig, Any]:
    kind, colon, path = source.partition(":")
    if not colon or kind == "folder":
        source = f"folder:{Path(path if colon else source).resolve()}"
    location = find(source)
    folder = location.folder
    if kind == "hub":  # what is trained on it keeps to this commit
        source = f"hub:{location.name}"
    if not (folder / CONFIG_FILE).exists() and not any(folder.glob("efficientnet*")):
        raise InvalidInput(f"{folder} has no {CONFIG_FILE}, so it is no backbone", field=f"{modality}_backbone")
    if not (folder / CONFIG_FILE).exists():
        chosen = layers or spread(len(BLOCK_CHANNELS))
        return BackboneConfig("efficientnet_lite0", source, chosen), None
    try:
        whole = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InvalidInput(f"{folder}: {first}", field=f"{modality}_backbone") from error
    config = getattr(whole, f"{modality}_config", whole)
    depth = getattr(config, "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise InvalidInput(f"{folder} is a {config.model_type}, which has no list of layers to tap")
    return BackboneConfig("transformers", source, layers or spread(depth), location.commit), config


def _positions(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or _DEFAULT_TEXT_TOKENS)


def _image(part: BackboneConfig, config: Any) -> ImageConfig:
    return _IMAGENET if config is None else image_config(locate(part.source, part.revision), config)
