"""Score fusion: text and image, embedded separately in one space, as their weighted normalised sum (M-BEIR's CLIP-SF).

The similarity of two such embeddings is a weighted sum of the four similarities between their parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import InvalidInput
from model.states import States


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """The weight of each modality in an embedding of both. An input of one modality is embedded by that one alone."""

    text: float = 0.5
    image: float = 0.5

    def __post_init__(self) -> None:
        values = {"text": self.text, "image": self.image}
        for name, value in values.items():
            if not math.isfinite(value) or value < 0:
                raise InvalidInput(f"the fusion weight of {name} is {value}, expected 0 or more", field=name)
        if not self.text + self.image > 0:
            raise InvalidInput("the fusion weights of text and image are both 0, expected at least one above")


class ScoreFusion(nn.Module):
    """Feature of each modality (B, 1, E), as the only state of its tower, to an embedding (B, 1, E) of unit length."""

    def __init__(self, weights: FusionWeights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, states: States, contributions: list[Tensor] | None = None) -> Tensor:
        """Fuse the states by their weighted sum. There are no gates, so nothing is appended to `contributions`."""
        return F.normalize(weighted_sum(self.weights, states), dim=-1)


def weighted_sum(weights: FusionWeights, states: States) -> Tensor:
    """Return the sum (B, 1, E) of both features, each of unit length and weighted; a feature that is alone as it is.

    A feature is the last state (B, 1, E) of its tower.
    """
    text = None if states.text is None else states.text[-1]
    image = None if states.vision is None else states.vision[-1]
    if text is None or image is None:
        alone = image if text is None else text
        if alone is None:
            raise ValueError("neither text nor image")
        return alone
    return weights.text * F.normalize(text, dim=-1) + weights.image * F.normalize(image, dim=-1)
