"""The model behind the batcher: the only module of the service that imports torch, and only its assembly imports this one."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import structlog
import torch
from PIL import Image

from model.errors import EncodeFailed
from model.inputs import Float32, Input, Limits, ModelInfo, Prepared, Role
from model.retriever import Retriever

log = structlog.get_logger(__name__)


class TorchRuntime:
    """A `Runtime` over a `Retriever`. `launch` belongs to one thread; the rest may be called from any."""

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
        text_cost = 0
        if item.text:
            most = min(len(item.text.encode("utf-8", "replace")) + 2, self.info.max_text_tokens)
            text_cost = self._retriever.preprocessor.text_positions or most
        return max(1, text_cost + (self._image_cost if item.image is not None else 0))

    def prepare(self, item: Input, role: Role) -> Prepared:
        return self._retriever.prepare(item, role, self._limits)

    def launch(self, batch: Sequence[Prepared]) -> Callable[[], Float32]:
        """A batch that does not fit into the device's memory is halved until it does; raises `EncodeFailed` for one input that
        does not fit by itself."""
        try:
            return self._retriever.launch(batch)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        # Outside the handler: the traceback holds the tensors of the forward that failed.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            raise EncodeFailed(
                f"this input of {batch[0].cost} positions does not fit into the memory of {self._retriever.device}"
            )
        log.warning("out of memory, batch is halved", inputs=len(batch), reason=reason)
        middle = len(batch) // 2
        halves = [self.launch(part)() for part in (batch[:middle], batch[middle:])]
        return lambda: np.concatenate(halves)

    def warm_up(self) -> None:
        """One forward of every kind, so that the first caller does not pay for lazy initialisation."""
        items = [Input("warm up"), Input(image=_dot()), Input("warm up", _dot())]
        for role in Role:
            self.launch([self.prepare(item, role) for item in items])()


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
