"""everyday: a sentence encoder and an image classifier in one space, without training.

The embedding of a text is the mean of MiniLM's last states. The embedding of a picture is a convex combination of the
sentence embeddings of the classes that EfficientNet-Lite0 recognises (ConSE, Norouzi et al. 2014, arXiv 1312.5650),
shifted in the directions in which the names of its colours shift a sentence. Text and picture together are their
weighted sum. The embedding of a picture contains only what the 1,000 classes of ImageNet and colours tell apart: no
faces, no writing, no numbers of things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from model import preprocess
from model.checkpoints.sources import locate
from model.checkpoints.weights import (
    CONFIG_FILE,
    fingerprint,
    load_strict,
    read_efficientnet_lite0,
    read_weights,
    weight_files,
)
from model.config import BackboneConfig, ImageConfig, read_fields
from model.errors import InvalidInput
from model.parts import Location, Parts
from model.score_fusion import FusionWeights, ScoreFusion
from model.towers.colours import TELLING, ColourShares
from model.towers.efficientnet import CLASSES, CPU_PASS, EfficientNetLite0Classifier
from model.towers.tokenizers import read_tokenizer
from model.towers.towers import EFFICIENTNET_GRID, TransformersTower, build_tower

MODEL_TYPE = "conse"
CLASS_EMBEDDINGS, COLOUR_DIRECTIONS = "class_embeddings", "colour_directions"


@dataclass(frozen=True, slots=True)
class EverydayConfig:
    """The parts of the model, and the weights of a picture's classes and colours.

    The `top_k` most probable classes make up a picture, weighted by their probabilities at `temperature`; a temperature
    above 1 gives the less probable ones more weight. `colour_weight` is the length of the shift for a picture of one
    colour on a plain background.
    """

    name: str
    text_source: str
    text_layers: int  # of the sentence encoder; its last one is read
    vision_source: str
    image: ImageConfig
    max_text_tokens: int
    dimensions: int
    top_k: int
    temperature: float
    colour_weight: float
    weights: FusionWeights

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= CLASSES:
            raise InvalidInput(f"top_k is {self.top_k}, expected 1 to {CLASSES}", field="top_k", value=self.top_k)
        if not self.temperature > 0:
            raise InvalidInput(f"temperature is {self.temperature}, expected a number over 0", field="temperature")
        if not self.colour_weight >= 0:
            raise InvalidInput(f"colour_weight is {self.colour_weight}, expected 0 or more", field="colour_weight")

    @property
    def latents(self) -> int:
        return 1

    @property
    def gated_steps(self) -> int:
        return 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EverydayConfig:
        """Read a configuration. Raises `InvalidInput` for an unknown key, a missing one or a value of another type."""
        fields = {key: item for key, item in value.items() if key != "model_type"}
        config: EverydayConfig = read_fields(cls, fields, "config")
        return config


class SentenceTower(nn.Module):
    """A text encoder with mean pooling of its last states over the tokens of each text."""

    def __init__(self, encoder: TransformersTower) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Pool ids (B, T) with mask (B, T) to one state of one position, (B, 1, W)."""
        (states,) = self.encoder(ids, mask)  # (B, T, W)
        if mask is None:
            return [states.mean(dim=1, keepdim=True)]
        present = mask[..., None].to(states.dtype)  # (B, T, 1)
        return [(states * present).sum(dim=1, keepdim=True) / present.sum(dim=1, keepdim=True)]


class ConceptTower(nn.Module):
    """A picture's convex combination of the sentence embeddings of its most probable classes, shifted by its
    colours."""

    def __init__(self, config: EverydayConfig) -> None:
        super().__init__()
        self.network = EfficientNetLite0Classifier()
        self.colours = ColourShares(config.image.mean, config.image.std)
        self.class_embeddings = nn.Parameter(torch.empty(CLASSES, config.dimensions), requires_grad=False)
        self.colour_directions = nn.Parameter(torch.empty(len(TELLING), config.dimensions), requires_grad=False)
        # The cost of a picture, equal to that of the same network in atlas.
        self.patches = EFFICIENTNET_GRID**2
        self._config = config

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Map pixels (B, 3, S, S) to one state of one position, (B, 1, E)."""
        if pixels.device.type == "cpu" and len(pixels) > CPU_PASS:
            return [torch.cat([self(part)[0] for part in torch.split(pixels, CPU_PASS)])]
        concepts = self.combine(self.network.logits(pixels.contiguous(memory_format=torch.channels_last)))
        colours = self.colours(pixels).to(concepts.dtype) @ self.colour_directions  # (B, E)
        return [(F.normalize(concepts, dim=-1) + self._config.colour_weight * colours)[:, None]]

    def combine(self, logits: Tensor) -> Tensor:
        """Combine the sentence embeddings of the most probable classes: logits (B, C) -> (B, E)."""
        best = (logits.float() / self._config.temperature).topk(self._config.top_k, dim=-1)  # (B, K)
        weights = best.values.softmax(dim=-1).to(self.class_embeddings.dtype)
        return (weights[:, None] @ self.class_embeddings[best.indices]).squeeze(1)


def read_everyday(location: Location, raw: Mapping[str, Any]) -> Parts:
    """Read the checkpoint. Raises `InvalidInput` with everything that is missing or does not fit."""
    config = EverydayConfig.from_json(raw)
    vision_folder = locate(config.vision_source, None, location.folder)
    text, tokenizer, text_files = read_sentence_encoder(config, location.folder)
    vision = _concept_tower(config, vision_folder, read_weights(location.folder))
    preprocessor = preprocess.Preprocessor(
        tokenizer=tokenizer, max_text_tokens=config.max_text_tokens, image=config.image, patches=vision.patches
    )
    files = [*weight_files(location.folder), *text_files]
    files += [path for path in vision_folder.glob("*") if path.suffix in (".safetensors", ".pth")]
    return Parts(
        config=config,
        text_tower=text,
        vision_tower=vision,
        sides={"shared": ScoreFusion(config.weights)},
        preprocessor=preprocessor,
        fingerprint=fingerprint(asdict(config), files, preprocess.VERSION),
        files=files,
    )


def read_sentence_encoder(config: EverydayConfig, beside: Path) -> tuple[SentenceTower, Tokenizer, Sequence[Path]]:
    """Return the text tower, its tokeniser, and the files from which they were read."""
    folder = locate(config.text_source, None, beside)
    backbone = BackboneConfig("transformers", config.text_source, (config.text_layers - 1,))
    encoder = build_tower(backbone, "text", folder, {})
    assert isinstance(encoder, TransformersTower)
    tokenizer, files = read_tokenizer([encoder], [folder])
    if tokenizer is None:
        raise InvalidInput(f"{folder.name} has no tokeniser: tokenizer.json is missing", field="model")
    if encoder.widths != (config.dimensions,):
        raise InvalidInput(f"{folder.name} gives {encoder.widths[0]} dimensions, config.json says {config.dimensions}")
    if encoder.text_positions is not None and config.max_text_tokens > encoder.text_positions:
        raise InvalidInput(
            f"max_text_tokens is {config.max_text_tokens}, the sentence encoder has {encoder.text_positions} positions",
            field="max_text_tokens",
        )
    return SentenceTower(encoder).eval(), tokenizer, [*files, *weight_files(folder), folder / CONFIG_FILE]


def _concept_tower(config: EverydayConfig, folder: Path, weights: Mapping[str, Tensor]) -> ConceptTower:
    tower = ConceptTower(config)
    network = {f"network.{key}": value for key, value in read_efficientnet_lite0(folder).items()}
    load_strict(tower, network | dict(weights), "everyday")
    tower.eval().requires_grad_(False)
    tower.network.fold_norms()
    tower.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tower
