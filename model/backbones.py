"""The two towers as one small interface: token ids or pixels in, states of the tapped layers out, stopping after the last of them.

Two families: encoders that `transformers` loads (CLIP, SigLIP, BERT, ViT, DINOv2, …) and EfficientNet-Lite, whose feature maps are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from model.config import BackboneConfig, Ret2Config
from model.efficientnet import BLOCK_CHANNELS, EfficientNetLite0, grid_positions
from model.errors import InvalidInput
from model.weights import load_strict, read_efficientnet_lite0

Modality = Literal["text", "vision"]

EFFICIENTNET_GRID = 7  # feature maps are averaged to 7 x 7 tokens, the size of the last one at 224 px
# On a CPU, activations of more images than this leave the cache: 160 px, two cores, 8 a pass 359 images/s, 32 a pass 144.
_CPU_PASS = 8


class TransformersTower(nn.Module):
    """Hidden states of chosen blocks of a transformers encoder, raw: before any final norm, pooler or projection.

    Not thread-safe: the tapped states pass through the instance. `widths` has one entry per tapped layer.
    """

    def __init__(self, encoder: Any, layers: tuple[int, ...], modality: Modality) -> None:
        super().__init__()
        self.modality = modality
        self.encoder = encoder
        blocks = _blocks(encoder)
        if max(layers) >= len(blocks) or min(layers) < 0:
            raise InvalidInput(
                f"{modality} layer {max(layers)} is tapped, the tower has {len(blocks)} (0 to {len(blocks) - 1})"
            )
        del blocks[max(layers) + 1 :]
        self.widths = (encoder.config.hidden_size,) * len(layers)
        self.patches = _patches(encoder.config) if modality == "vision" else 0
        self._layers = layers
        self._states: dict[int, Tensor] = {}
        for index in set(layers):
            blocks[index].register_forward_hook(self._tap(index))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """ids (B, T) with mask (B, T), or pixels (B, 3, S, S) -> one (B, T or P, W) for each tapped layer."""
        if self.modality == "text":
            self.encoder(input_ids=values, attention_mask=mask)
        else:
            self.encoder(pixel_values=values)
        states = [self._states[index] for index in self._layers]
        self._states.clear()
        return states

    def _tap(self, index: int) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._states[index] = output[0] if isinstance(output, tuple) else output

        return keep


class EfficientNetTower(nn.Module):
    """Feature maps of chosen blocks as tokens: averaged to a 7 x 7 grid, with the grid position appended."""

    positions: Tensor

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        if max(layers) >= len(BLOCK_CHANNELS):
            raise InvalidInput(f"vision layer {max(layers)} is tapped, the tower has {len(BLOCK_CHANNELS)}")
        self.network = EfficientNetLite0(depth=max(layers) + 1)
        positions = grid_positions(EFFICIENTNET_GRID)  # (P, 8)
        self.register_buffer("positions", positions[None], persistent=False)
        self.widths = tuple(BLOCK_CHANNELS[index] + positions.shape[-1] for index in layers)
        self.patches = EFFICIENTNET_GRID**2
        self._layers = layers

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """pixels (B, 3, S, S) -> one (B, 49, C + 8) for each tapped block."""
        if pixels.device.type == "cpu" and len(pixels) > _CPU_PASS:
            passes = [self(part) for part in torch.split(pixels, _CPU_PASS)]
            return [torch.cat(layer) for layer in zip(*passes, strict=True)]
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        states = []
        for feature_map in self.network(pixels, self._layers):
            tokens = F.adaptive_avg_pool2d(feature_map, EFFICIENTNET_GRID).flatten(2).transpose(1, 2)  # (B, P, C)
            states.append(torch.cat([tokens, self.positions.to(tokens).expand(len(tokens), -1, -1)], dim=-1))
        return states


Tower = TransformersTower | EfficientNetTower


def build_tower(
    config: BackboneConfig, modality: Modality, folder: Path | None, tensors: Mapping[str, Tensor]
) -> Tower:
    """A tower with its weights: from `folder`, or where `source` is `checkpoint` from the checkpoint's `tensors`. In eval mode."""
    if config.family == "efficientnet_lite0":
        return (
            _efficientnet(config.layers, read_efficientnet_lite0(folder) if folder else tensors)
            .eval()
            .requires_grad_(False)
        )
    encoder = _pretrained(folder, modality) if folder else _from_tensors(config, tensors, modality)
    return TransformersTower(encoder, config.layers, modality).eval().requires_grad_(False)


def _efficientnet(layers: tuple[int, ...], weights: Mapping[str, Tensor]) -> EfficientNetTower:
    tower = EfficientNetTower(layers)
    wanted = tower.network.state_dict().keys()
    load_strict(tower.network, {key: value for key, value in weights.items() if key in wanted}, "EfficientNet-Lite0")
    tower.network.eval().fold_norms()
    tower.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tower


def build_towers(
    config: Ret2Config, folders: Mapping[Modality, Path | None], tensors: Mapping[str, Tensor]
) -> tuple[Tower, Tower]:
    """Text and vision tower; `tensors` are a checkpoint's, under `text.` and `vision.`."""
    text = build_tower(config.text, "text", folders["text"], with_prefix(tensors, "text."))
    vision = build_tower(config.vision, "vision", folders["vision"], with_prefix(tensors, "vision."))
    return text, vision


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _pretrained(folder: Path, modality: Modality) -> Any:
    """One tower of a transformers folder; of a two-tower model (CLIP, SigLIP) the half that is asked for."""
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    part = getattr(config, f"{modality}_config", config)
    with torch.device("meta"):
        model_class = type(transformers.AutoModel.from_config(part))
    encoder, report = model_class.from_pretrained(
        folder, config=part, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
    )
    # A pooler is never read here, so a folder without one is whole.
    if missing := [key for key in report["missing_keys"] if "pooler" not in key]:
        raise InvalidInput(f"{folder.name}: {len(missing)} weights are missing, the first is {sorted(missing)[0]}")
    return encoder


def _from_tensors(config: BackboneConfig, tensors: Mapping[str, Tensor], modality: Modality) -> Any:
    if config.architecture is None:
        raise InvalidInput(f"{modality} source is 'checkpoint', so `architecture` is needed")
    architecture = dict(config.architecture)
    encoder = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    )
    # transformers 5 dropped one level of CLIP's names (`text_model.encoder` -> `encoder`); files of before have it.
    inner = f"{modality}_model."
    has_level = any(key.startswith(inner) for key in encoder.state_dict())
    named = tensors if has_level else {key.removeprefix(inner): value for key, value in tensors.items()}
    load_strict(encoder, named, f"{modality} tower")
    return encoder


def _blocks(encoder: Any) -> nn.ModuleList:
    depth = encoder.config.num_hidden_layers
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise InvalidInput(f"{type(encoder).__name__} has no list of {depth} blocks to tap")


def _patches(config: Any) -> int:
    return int((config.image_size // config.patch_size) ** 2)
