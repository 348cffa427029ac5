"""Dual encoders as they are: CLIP, SigLIP and SigLIP 2 in transformers' format, both modalities at once by score
fusion.

Nothing is added to the folder. `config.json` may say `ret2_fusion: {"text": 0.5, "image": 0.5}`, the weights of an
input that has both, and, as models trained by Matryoshka representation learning do, `matryoshka_dimensions:
[64, 256]`, the lengths to which embeddings may be cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from model import preprocess
from model.checkpoints.weights import CONFIG_FILE, fingerprint, weight_files
from model.config import ImageConfig
from model.errors import InvalidInput
from model.parts import Location, Parts
from model.score_fusion import FusionWeights, ScoreFusion
from model.towers.features import build_feature_towers
from model.towers.image_processors import image_config, processor_files
from model.towers.tokenizers import read_tokenizer

FUSION_FIELD = "ret2_fusion"
MATRYOSHKA_FIELD = "matryoshka_dimensions"


@dataclass(frozen=True, slots=True)
class DualConfig:
    """The configuration of a dual encoder. One vector an input, and no gates that could say what came from where."""

    name: str
    dimensions: int
    max_text_tokens: int
    image: ImageConfig
    weights: FusionWeights
    shorter: tuple[int, ...] = ()

    @property
    def latents(self) -> int:
        return 1

    @property
    def gated_steps(self) -> int:
        return 0


def read_dual_encoder(location: Location, raw: Mapping[str, Any]) -> Parts:
    """Read the towers of a folder with their weights. Raises `InvalidInput` with what is missing or does not fit."""
    folder = location.folder
    weights = weight_files(folder)
    text, vision, dimensions = build_feature_towers(folder)
    tokenizer, tokenizer_files = read_tokenizer([text], [folder])
    if tokenizer is None or text.text_positions is None:
        raise InvalidInput(
            f"{location.name} has no tokeniser: tokenizer.json is missing (for CLIP vocab.json and merges.txt do). "
            + (
                "Download it again: ret2 models pull hub:" + location.name
                if location.commit
                else "Copy it beside config.json"
            ),
            field="model",
        )
    config = DualConfig(
        name=location.name,
        dimensions=dimensions,
        max_text_tokens=text.text_positions,
        image=image_config(folder, vision.encoder.config, naflex=True),
        weights=_fusion_weights(raw),
        shorter=_shorter_dimensions(raw, dimensions),
    )
    preprocessor = preprocess.Preprocessor(
        tokenizer=tokenizer,
        max_text_tokens=config.max_text_tokens,
        image=config.image,
        patches=getattr(config.image, "max_patches", vision.patches),
        text_positions=text.full_length,
    )
    files = [*weights, *tokenizer_files, *processor_files(folder), folder / CONFIG_FILE]
    said = {"weights": asdict(config.weights), "image": asdict(config.image)}
    return Parts(
        config=config,
        text_tower=text,
        vision_tower=vision,
        sides={"shared": ScoreFusion(config.weights)},
        preprocessor=preprocessor,
        fingerprint=fingerprint(said, files, preprocess.VERSION),
        files=files,
    )


def _shorter_dimensions(raw: Mapping[str, Any], dimensions: int) -> tuple[int, ...]:
    lengths = raw.get(MATRYOSHKA_FIELD) or ()
    if not isinstance(lengths, list | tuple) or not all(
        type(length) is int and 0 < length <= dimensions for length in lengths
    ):
        raise InvalidInput(
            f"{MATRYOSHKA_FIELD} is {lengths!r:.100}, expected whole numbers from 1 to {dimensions}",
            field=MATRYOSHKA_FIELD,
        )
    return tuple(sorted({length for length in lengths if length < dimensions}))


def _fusion_weights(raw: Mapping[str, Any]) -> FusionWeights:
    settings = raw.get(FUSION_FIELD, {})
    numbers = isinstance(settings, Mapping) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in settings.values()
    )
    if not numbers or set(settings) - {"text", "image"}:
        raise InvalidInput(
            f'{FUSION_FIELD} is {settings!r}, expected numbers for text and image, as {{"text": 0.5, "image": 0.5}}',
            field=FUSION_FIELD,
        )
    return FusionWeights(**{name: float(value) for name, value in settings.items()})
