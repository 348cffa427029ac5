"""The towers of a dual encoder: one vector of a text or an image each, by the model's own pooling and projection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn

from model.checkpoints.weights import misfits
from model.errors import InvalidInput
from model.towers.towers import Modality, TransformersEncoder, load_pretrained, transformers_errors

DUAL_ENCODERS = ("clip", "siglip", "siglip2")
# What training used and no embedding does.
_LOGITS = ("logit_scale", "logit_bias")


class FeatureTower(TransformersEncoder):
    """Text or pixels to the vector by which the model compares the two, before normalisation. Thread-safe."""

    def __init__(self, encoder: Any, projection: nn.Module, modality: Modality) -> None:
        super().__init__(encoder, modality)
        self.projection = projection

    def forward(self, values: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> list[Tensor]:
        """Map ids (B, T) with mask (B, T), or pixels, to one state of one position, (B, 1, E)."""
        return [self.projection(self.read(values, mask).pooler_output)[:, None]]


def build_feature_towers(folder: Path) -> tuple[FeatureTower, FeatureTower, int]:
    """Build the text and the vision tower of a CLIP or SigLIP folder, in float32 and eval mode. Return also the size of
    their common space.

    Raises `InvalidInput` with every weight that is missing, is misshapen or has no place.
    """
    with transformers_errors(folder):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, problems, unexpected = load_pretrained(config, folder, None)
    problems = [problem for problem in problems if problem.removeprefix("missing ") not in _LOGITS]
    problems += [f"{key} has no place" for key in unexpected]
    if problems:
        raise InvalidInput(misfits(folder.name, problems), field="model")
    if not getattr(config.vision_config, "vision_use_head", True):
        raise InvalidInput(
            f"{folder.name}: its vision tower has no head (vision_use_head is false), so no image embedding"
        )
    projections = (getattr(model, "text_projection", nn.Identity()), getattr(model, "visual_projection", nn.Identity()))
    sizes = _size(model.text_model, projections[0]), _size(model.vision_model, projections[1])
    if sizes[0] != sizes[1]:
        raise InvalidInput(f"{folder.name}: text embeddings have {sizes[0]} dimensions and image embeddings {sizes[1]}")
    text = FeatureTower(model.text_model, projections[0], "text").eval().requires_grad_(False)
    vision = FeatureTower(model.vision_model, projections[1], "vision").eval().requires_grad_(False)
    return text, vision, sizes[0]


def _size(encoder: Any, projection: nn.Module) -> int:
    if isinstance(projection, nn.Linear):
        return projection.out_features
    head = getattr(encoder, "head", None)
    return head.out_features if isinstance(head, nn.Linear) else int(encoder.config.hidden_size)
