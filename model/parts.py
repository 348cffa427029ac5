"""The parts of a retriever, whatever kind of checkpoint they were read from: the interface between `Retriever` and the
readers of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import nn

from model.config import ImageConfig
from model.preprocess import Preprocessor


class ModelConfig(Protocol):
    """The part of a model's configuration that serving it needs."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    @property
    def latents(self) -> int: ...

    @property
    def gated_steps(self) -> int: ...

    @property
    def image(self) -> ImageConfig: ...

    @property
    def max_text_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Two towers, what fuses their states into an embedding, and the preprocessing before them.

    A tower takes token ids (B, T) with their mask, or pixels, and returns a list of states (B, T or P, W). A side takes
    `model.states.States` and returns latents (B, K, E); there is one, "shared", or one each for "query" and "document".
    Both towers of a dual encoder return one state of one position: the embedding of that modality. `files` are those
    that all of it was read from, beside settings in JSON.
    """

    config: ModelConfig
    text_tower: nn.Module
    vision_tower: nn.Module
    sides: Mapping[str, nn.Module]
    preprocessor: Preprocessor
    fingerprint: str
    document_towers: Mapping[str, nn.Module] = field(default_factory=dict)
    files: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Location:
    """A checkpoint's folder, the name to serve it by, and the commit of a hub model."""

    folder: Path
    name: str
    commit: str | None = None
