"""The configuration of a checkpoint: every choice that changes an embedding, as frozen dataclasses that read and write
`config.json`.

What the ReT-2 paper's public pages leave open (layers, sizes, pooling, gate priors, ...) is a field here, never a
hidden constant.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from model.errors import InvalidInput

Family = Literal["transformers", "efficientnet_lite0"]
Resize = Literal["pad", "crop", "squash"]
Resample = Literal["bicubic", "bilinear", "lanczos"]
# What the towers say of a whole text and a whole image, beside the cell's state. "added": the means of both towers'
# last
# tapped layers, projected, are added to the state. "base": the state is added to the embedding of the dual encoder that
# both towers are of.
GlobalFeatures = Literal["added", "base"]


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """One frozen or trainable tower.

    `source` says where its weights are: `package:NAME/FOLDER` (an installed Python package), `hub:ORG/NAME` (with
    `revision`, a full commit), `folder:PATH` (relative to the checkpoint), or `checkpoint` (inside `model.safetensors`,
    built from `architecture`). `layers` are block indices, 0 = output of the first block; the tower stops after the
    last of them.
    """

    family: Family
    source: str
    layers: tuple[int, ...]
    revision: str | None = None
    architecture: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Pixels for the vision tower. `pad` keeps the whole image on white, `crop` its centre, `squash` ignores the aspect
    ratio."""

    size_px: int = 224
    resize: Resize = "crop"
    resample: Resample = "bicubic"
    crop_from_px: int | None = None  # `crop`: the shortest side goes to this before the centre is cut; None: to size_px
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if self.crop_from_px is not None and (self.resize != "crop" or self.crop_from_px < self.size_px):
            raise InvalidInput(
                f"crop_from_px is {self.crop_from_px}; it needs resize 'crop' (is {self.resize!r}) "
                f"and at least size_px {self.size_px}"
            )


@dataclass(frozen=True, slots=True)
class NaflexConfig(ImageConfig):
    """Pixels for SigLIP 2's NaFlex: the aspect ratio is kept, and the image as large as `max_patches` patches allow.

    `resize` and `crop_from_px` have no part in it; `size_px` is the side of a square image.
    """

    patch_px: int = 16
    max_patches: int = 256


@dataclass(frozen=True, slots=True)
class Ret2Config:
    """The recurrent cell, its adapters, pooling and projection, and the two towers below them."""

    text: BackboneConfig
    vision: BackboneConfig
    name: str = "ret2"
    image: ImageConfig = ImageConfig()
    max_text_tokens: int = 77
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_heads: int = 16
    num_latents: int = 1
    output_size: int | None = None  # None: no projection, the embedding has hidden_size
    pooling: Literal["none", "mean"] = "mean"  # over the latents, before the projection
    fusion: Literal["recurrent", "sum"] = "recurrent"  # "sum" is the baseline that evaluation compares against
    latent_positions: bool = True  # sinusoids added to the latents at every step, as v1 does
    activation: Literal["gelu", "relu"] = "gelu"
    state_tanh: bool = False
    input_gate_prior: float = 0.0
    forget_gate_prior: float = 0.0
    dropout: float = 0.05
    attention_dropout: float = 0.05
    shared_sides: bool = True  # one encoder for queries and documents (ReT-2); False: one for each (v1's default)
    shared_text_tower: bool = True  # False: each side has its own, both in the checkpoint
    shared_vision_tower: bool = True
    global_features: GlobalFeatures | None = None  # through a gate that begins at zero: model/ret2.py

    def __post_init__(self) -> None:
        if self.fusion == "recurrent" and len(self.text.layers) != len(self.vision.layers):
            raise InvalidInput(
                f"text taps {len(self.text.layers)} layers and vision {len(self.vision.layers)}; each step takes one "
                "of both"
            )
        if not self.text.layers:
            raise InvalidInput("no layers are tapped; at least one is needed")
        if self.hidden_size % self.num_heads:
            raise InvalidInput(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        for name, shared, part in (
            ("text", self.shared_text_tower, self.text),
            ("vision", self.shared_vision_tower, self.vision),
        ):
            if not shared and (self.shared_sides or part.source != "checkpoint"):
                raise InvalidInput(
                    f"shared_{name}_tower is false, so shared_sides must be false (is {self.shared_sides}) "
                    f"and {name}.source 'checkpoint' (is {part.source!r})"
                )

        self._check_global_features()

    def _check_global_features(self) -> None:
        if self.global_features is None:
            return
        if self.fusion != "recurrent":
            raise InvalidInput(f"global_features need fusion 'recurrent', it is {self.fusion!r}")
        if self.global_features != "base":
            return
        if self.text.source != self.vision.source or self.pooling != "mean" or not self.shared_sides:
            raise InvalidInput(
                "global_features 'base' need one dual encoder for text.source and vision.source, pooling 'mean' and "
                f"shared_sides; they are {self.text.source!r}, {self.vision.source!r}, {self.pooling!r}, "
                f"{self.shared_sides}"
            )

    @property
    def steps(self) -> int:
        return len(self.text.layers)

    @property
    def dimensions(self) -> int:
        return self.output_size or self.hidden_size

    @property
    def latents(self) -> int:
        """Vectors that the model gives of one input; 1 where they are pooled."""
        return self.num_latents if self.fusion == "recurrent" and self.pooling == "none" else 1

    @property
    def gated_steps(self) -> int:
        """Steps whose gates say how much came from text and how much from the image."""
        return self.steps if self.fusion == "recurrent" else 0

    def to_json(self) -> dict[str, Any]:
        """Leave out what a checkpoint of before does not have, so that its fingerprint stays."""
        fields = dataclasses.asdict(self)
        if self.global_features is None:
            del fields["global_features"]
        return {"model_type": "ret2", **fields}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ret2Config:
        """Read a configuration. Raises `InvalidInput` for an unknown key, a missing one or a value of another type."""
        config: Ret2Config = read_fields(
            cls, {key: item for key, item in value.items() if key != "model_type"}, "config"
        )
        return config


def read_fields(cls: Any, value: Any, where: str) -> Any:
    """Convert a JSON value to the annotated type `cls`: dataclasses, tuples, literals, optionals and plain types."""
    origin, arguments = get_origin(cls), get_args(cls)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and isinstance(value, Mapping):
        hints = typing.get_type_hints(cls)
        if unknown := set(value) - set(hints):
            raise InvalidInput(f"{where} has unknown keys: {', '.join(sorted(unknown))}", field=where)
        try:
            return cls(**{key: read_fields(hints[key], item, f"{where}.{key}") for key, item in value.items()})
        except TypeError as error:
            raise InvalidInput(f"{where}: {error}", field=where) from error
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return read_fields(next(kind for kind in arguments if kind is not type(None)), value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, (list, tuple)) and (arguments[-1] is ... or len(value) == len(arguments)):
        return tuple(read_fields(arguments[0], item, where) for item in value)
    if cls is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if (cls in (int, str, bool) and type(value) is cls) or (isinstance(value, Mapping) and origin is not None):
        return value
    raise InvalidInput(f"{where} is {value!r}, expected {cls}", field=where, value=value)
