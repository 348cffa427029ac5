"""A tower of a dual encoder with the states of chosen blocks before its feature."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import InvalidInput
from model.towers.efficientnet import BLOCK_CHANNELS, EfficientNetLite0
from model.towers.towers import (
    NAFLEX,
    Modality,
    TransformersEncoder,
    blocks_of,
    grid_tokens,
    position_features,
)


class _Recorded(threading.local):
    """Outputs of the forward of this thread, by layer; several where an input was computed in parts."""

    def __init__(self) -> None:
        self.outputs: dict[int, list[Tensor]] = {}


class TappedTower(nn.Module):
    """Token ids or pixels to the states of the tapped blocks and, last, the tower's own feature (B, 1, E).

    Thread-safe. `widths` has one entry per tapped layer; the feature's width is not among them.
    """

    positions: Tensor

    def __init__(self, tower: Any, layers: tuple[int, ...], modality: Modality) -> None:
        super().__init__()
        self.tower = tower
        self.patches: int = getattr(tower, "patches", 0)
        network = network_of(tower)
        self._gives_maps = isinstance(network, EfficientNetLite0)
        if not self._gives_maps and network.config.model_type == NAFLEX:
            raise InvalidInput("no cell can be added to a NaFlex tower: its images differ in their number of patches")
        blocks = tower_blocks(tower)
        if max(layers) >= len(blocks) or min(layers) < 0:
            raise InvalidInput(
                f"{modality} layer {max(layers)} is tapped, the tower has {len(blocks)} (0 to {len(blocks) - 1})"
            )
        positions = position_features()  # (P, 8)
        self.register_buffer("positions", positions[None], persistent=False)
        self.widths: tuple[int, ...] = tuple(
            BLOCK_CHANNELS[index] + positions.shape[-1] if self._gives_maps else network.config.hidden_size
            for index in layers
        )
        self._layers = layers
        self._recorded = _Recorded()
        for index in set(layers):
            blocks[index].register_forward_hook(self._tap(index))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Map ids (B, T) with mask (B, T), or pixels (B, 3, S, S), to one (B, T or P, W) for each layer, and (B, 1,
        E)."""
        self._recorded.outputs = {}
        feature: list[Tensor] = self.tower(values) if mask is None else self.tower(values, mask)
        states = [torch.cat(self._recorded.outputs[index]) for index in self._layers]
        self._recorded.outputs = {}
        if self._gives_maps:
            states = [grid_tokens(state, self.positions) for state in states]
        elif values.dim() == 2:  # SigLIP reads a text at full length
            states = [state[:, : values.shape[1]] for state in states]
        return [*states, *feature]

    def _tap(self, index: int) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            self._recorded.outputs.setdefault(index, []).append(state)

        return keep


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """Return the blocks of a dual encoder's tower, in order."""
    network = network_of(tower)
    return list(network._blocks if isinstance(network, EfficientNetLite0) else blocks_of(network))


def network_of(tower: Any) -> Any:
    """Return the network that contains the blocks: EfficientNet, or an encoder of transformers."""
    if hasattr(tower, "network"):
        return tower.network
    encoder = tower.encoder
    return encoder.encoder if isinstance(encoder, TransformersEncoder) else encoder
