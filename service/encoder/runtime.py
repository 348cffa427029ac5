"""The model behind the batcher: the only module of the service that imports torch, and only its assembly imports this one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Self

import torch
from PIL import Image

from model.inputs import Float32, Input, Limits, ModelInfo, Prepared, Role
from model.retriever import Retriever


class TorchRuntime:
    """A `Runtime` over a `Retriever`. `forward` belongs to one thread; the rest may be called from any."""

    def __init__(self, retriever: Retriever, limits: Limits) -> None:
        self._retriever = retriever
        self._limits = limits
        self._image_cost = self.prepare(Input(image=_dot()), Role.DOCUMENT).cost

    @classmethod
    def load(cls, source: str, *, device: str, threads: int | None, limits: Limits) -> Self:
        runtime = cls(Retriever.load(source, device=choose_device(device), threads=threads), limits)
        runtime.warm_up()
        return runtime

    @property
    def info(self) -> ModelInfo:
        return self._retriever.info

    def estimate(self, item: Input) -> int:
        """No tokeniser makes more tokens than a text has bytes, but for the special ones at its ends."""
        text_cost = min(len(item.text.encode("utf-8", "replace")) + 2, self.info.max_text_tokens) if item.text else 0
        return max(1, text_cost + (self._image_cost if item.image is not None else 0))

    def prepare(self, item: Input, role: Role) -> Prepared:
        return self._retriever.prepare(item, role, self._limits)

    def forward(self, batch: Sequence[Prepared]) -> Float32:
        return self._retriever.encode(batch)

    def warm_up(self) -> None:
        """One forward of every kind, so that the first caller does not pay for lazy initialisation."""
        items = [Input("warm up"), Input(image=_dot()), Input("warm up", _dot())]
        for role in Role:
            self.forward([self.prepare(item, role) for item in items])


def choose_device(wanted: str) -> str:
    """`auto` is the first of CUDA, MPS and CPU that is there."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dot() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(file, "PNG")
    return file.getvalue()
