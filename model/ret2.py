"""Ret2: adapters, the recurrent cell, pooling and projection over the tapped states of two towers. The towers are not
in here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cell import RecurrentCell
from model.config import Ret2Config
from model.score_fusion import FusionWeights, weighted_sum
from model.states import States


class Ret2(nn.Module):
    """States of both towers to latents (B, K, E), or (B, 1, E) when pooled; each of unit length.

    E = config.dimensions.
    """

    def __init__(
        self,
        config: Ret2Config,
        text_widths: Sequence[int],
        vision_widths: Sequence[int],
        base: FusionWeights | None = None,
    ) -> None:
        """`base` are the weights of the dual encoder whose embedding the cell's state is added to, if it is."""
        super().__init__()
        self.pooled = config.pooling == "mean"
        self.text_adapters = nn.ModuleList(nn.Linear(width, config.hidden_size) for width in text_widths)
        self.vision_adapters = nn.ModuleList(nn.Linear(width, config.hidden_size) for width in vision_widths)
        self.cell = RecurrentCell(config)
        self.projection = (
            nn.Linear(config.hidden_size, config.output_size, bias=False) if config.output_size else nn.Identity()
        )
        self.features: FeaturesOnState | StateOnEmbedding | None = None
        if config.global_features == "added":
            self.features = FeaturesOnState(config, text_widths, vision_widths)
        elif config.global_features == "base":
            self.features = StateOnEmbedding(config, base or FusionWeights())

    def forward(self, states: States, contributions: list[Tensor] | None = None) -> Tensor:
        """Fuse the states. Where `contributions` is given, append (B, 2) for each step: what it took from text and
        image, see `model.contributions`."""
        state = self._state(states, contributions)
        if self.features is not None:
            state = self.features(state, states)
        return F.normalize(state, dim=-1)

    def parts(self, states: States) -> Tensor:
        """Return what `FeaturesOnState` adds up: the cell's state and the features, (B, 2, E), each of unit length."""
        assert isinstance(self.features, FeaturesOnState)
        state = F.normalize(self._state(states), dim=-1).mean(dim=1, keepdim=True)  # (B, 1, E)
        return F.normalize(torch.cat([state, self.features.sum(states)], dim=1), dim=-1)

    def _state(self, states: States, contributions: list[Tensor] | None = None) -> Tensor:
        latents = self.cell.initial(states.batch)  # (B, K, D)
        for step in range(len(self.text_adapters)):
            latents = self.cell(
                latents,
                self.text_adapters[step](states.text[step]) if states.text is not None else None,
                self.vision_adapters[step](states.vision[step]) if states.vision is not None else None,
                states.text_mask,
                states.text_present,
                states.image_present,
                contributions,
            )
        if self.pooled:
            latents = latents.mean(dim=1, keepdim=True)  # (B, 1, D)
        state: Tensor = self.projection(latents)  # (B, K, E), or (B, 1, E) when pooled
        return state


class FeaturesOnState(nn.Module):
    """What the towers say of a whole text and a whole image, as the plain sum has it, added to the cell's state."""

    def __init__(self, config: Ret2Config, text_widths: Sequence[int], vision_widths: Sequence[int]) -> None:
        super().__init__()
        self.sum = SumFusion(config, text_widths, vision_widths)
        self.gate = nn.Parameter(torch.zeros(config.dimensions))

    def forward(self, state: Tensor, states: States) -> Tensor:
        """Add the features to the state, (B, K, E) before normalisation."""
        features: Tensor = self.sum(states)  # (B, 1, E)
        return _gated(state, features, self.gate)


class StateOnEmbedding(nn.Module):
    """The cell's state, added to the embedding of a dual encoder, whose towers give their feature as the last state.

    A linear map of each feature, which begins at zero too, is added to the feature itself: a few pairs teach it more
    than they teach a fresh cell.
    """

    def __init__(self, config: Ret2Config, weights: FusionWeights) -> None:
        super().__init__()
        size = config.dimensions
        self.weights = weights
        self.text, self.vision = (nn.Parameter(torch.zeros(size, size)) for _ in range(2))
        self.gate = nn.Parameter(torch.zeros(size))

    def forward(self, state: Tensor, states: States) -> Tensor:
        """Add the state, (B, 1, E) before normalisation, to the dual encoder's embedding."""
        features = States(text=_moved(states.text, self.text), vision=_moved(states.vision, self.vision))
        return _gated(weighted_sum(self.weights, features), F.normalize(state, dim=-1), self.gate)


def _moved(states: Sequence[Tensor] | None, weight: Tensor) -> Sequence[Tensor] | None:
    """Return the last state of a tower, its feature (B, 1, E), moved by a linear map of itself."""
    return None if states is None else [states[-1] + states[-1] @ weight]


def _gated(base: Tensor, addition: Tensor, gate: Tensor) -> Tensor:
    """Add what is of unit length, by the gate times the length of the base; at gate 0 the base stays as it is."""
    length: Tensor = torch.linalg.vector_norm(base, dim=-1, keepdim=True)
    return base + gate * addition * length


class SumFusion(nn.Module):
    """The baseline: mean of each tower's last tapped layer, projected separately and added.

    Same interface as `Ret2`.
    """

    def __init__(self, config: Ret2Config, text_widths: Sequence[int], vision_widths: Sequence[int]) -> None:
        super().__init__()
        size = config.hidden_size
        self.text = nn.Sequential(nn.LayerNorm(text_widths[-1]), _projector(text_widths[-1], size, config.dimensions))
        self.vision = nn.Sequential(
            nn.LayerNorm(vision_widths[-1]), _projector(vision_widths[-1], size, config.dimensions)
        )

    def forward(self, states: States, contributions: list[Tensor] | None = None) -> Tensor:
        """Fuse the states by a plain sum. There are no gates, so nothing is appended to `contributions`."""
        total = torch.zeros(())
        if states.text is not None:
            last = states.text[-1]
            weight = torch.ones_like(last[..., 0]) if states.text_mask is None else states.text_mask.to(last.dtype)
            mean = (last * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)  # (B, Wt)
            total = total + F.normalize(self.text(mean), dim=-1) * _rows(states.text_present)
        if states.vision is not None:
            total = total + F.normalize(self.vision(states.vision[-1].mean(1)), dim=-1) * _rows(states.image_present)
        return F.normalize(total, dim=-1)[:, None]  # (B, 1, E)


def build_fusion(
    config: Ret2Config,
    text_widths: Sequence[int],
    vision_widths: Sequence[int],
    base: FusionWeights | None = None,
) -> nn.Module:
    if config.fusion == "sum":
        return SumFusion(config, text_widths, vision_widths)
    return Ret2(config, text_widths, vision_widths, base)


def _projector(width: int, hidden: int, output: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, output))


def _rows(present: Tensor | None) -> Tensor | float:
    return 1.0 if present is None else present[:, None]
