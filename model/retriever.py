"""A loaded checkpoint with its towers and preprocessing: inputs in, embeddings out. What the encoder service drives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoints.sources import find
from model.config import Ret2Config
from model.contributions import shares
from model.cpu import graph
from model.cpu.compiled import default_cache, keep_outline, read_compiled
from model.errors import InvalidInput
from model.parts import Parts
from model.passages import Cut, Passages
from model.preprocess import padded
from model.score_fusion import ScoreFusion
from model.states import States
from model.types import Encoded, Float32, Input, Limits, ModelInfo, Prepared, Role

# Imported where a checkpoint is read or compiled, for they import transformers, without which a later start of a
# compiled model does: model.checkpoints.kinds, model.checkpoints.ret2, model.cpu.compiler.
if TYPE_CHECKING:
    from model.towers.towers import Modality

# Padded positions that a group of texts may have before it is cut in two: about what one more pass over the weights
# costs. Estimated for CLIP-B on two cores (a pass reads 150 MB); on a device, launching the kernels of a pass takes the
# time of thousands.
_PADDING_CPU, _PADDING_DEVICE = 64, 4096


class Retriever(nn.Module):
    """`prepare`, `encode` and `launch` are thread-safe. Always in eval mode, gradients off, unless a trainer turns them
    on."""

    def __init__(self, parts: Parts, commit: str | None = None) -> None:
        super().__init__()
        config = parts.config
        self.config = config
        self.text_tower: Any = parts.text_tower
        self.vision_tower: Any = parts.vision_tower
        self.document_towers = nn.ModuleDict(parts.document_towers)  # "text", "vision": those the sides do not share
        self.sides = nn.ModuleDict(parts.sides)
        self.preprocessor = parts.preprocessor
        self.stayed: dict[str, str] = {}  # parts in torch of a compiled model, and why
        self.tokens = self.padding = 0  # text positions computed since it was made
        self._counting = threading.Lock()
        self.info = ModelInfo(
            name=config.name,
            fingerprint=parts.fingerprint,
            dimensions=config.dimensions,
            max_text_tokens=config.max_text_tokens,
            image_size_px=config.image.size_px,
            latents=config.latents,
            commit=commit,
            modalities=("text", "image") if parts.preprocessor.reads_text else ("image",),
            # Dual encoders alone have them.
            shorter=getattr(config, "shorter", ()),
            weighable=all(type(side) is ScoreFusion for side in parts.sides.values()),
        )

    @property
    def ret2_config(self) -> Ret2Config:
        """The configuration of a model with a cell. Raises `InvalidInput` for one without."""
        if not isinstance(self.config, Ret2Config):
            raise InvalidInput(
                f"{self.config.name} has no recurrent cell. ret2 train --start-from SOURCE adds one to it",
                field="model",
            )
        return self.config

    @classmethod
    def load(
        cls, source: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, threads: int | None = None
    ) -> Retriever:
        """Load a checkpoint of any kind: a folder, `bundled`, or `hub:ORG/NAME`, with `@COMMIT` or `@TAG` to pin it.

        Raises `InvalidInput` with all that does not fit, `DependencyUnavailable` when the hub does not answer.
        """
        if threads:
            torch.set_num_threads(threads)
        from model.checkpoints.kinds import read_checkpoint

        location = find(source)
        retriever = cls(read_checkpoint(location), location.commit).to(device, dtype).eval()
        retriever.info = replace(retriever.info, precision=str(dtype).removeprefix("torch."))
        return retriever

    @classmethod
    def load_compiled(
        cls,
        source: str,
        precision: str = "float32",
        *,
        threads: int | None = None,
        cache: Path | None = None,
        calibration: Sequence[Input] = (),
        shared: bool = False,
    ) -> Retriever:
        """Load a checkpoint and compile it, as `load` and `compiled` do.

        After the first time no module is built and no weight read into torch, as long as the files are the same.
        """
        location, cache, threads = find(source), cache or default_cache(), threads or torch.get_num_threads()
        if graph.available() and (parts := read_compiled(location, precision, threads, cache, shared=shared)):
            retriever = cls(parts, location.commit).eval()
            retriever.info = replace(retriever.info, precision=precision)
            return retriever
        from model.checkpoints.kinds import read_checkpoint

        parts = read_checkpoint(location)
        retriever = cls(parts, location.commit).eval()
        retriever.compiled(precision, threads=threads, cache=cache, calibration=calibration, shared=shared)
        if not retriever.stayed and parts.files:
            keep_outline(retriever, location, parts.files, cache)
        return retriever

    @classmethod
    def untrained(cls, config: Ret2Config) -> Retriever:
        """Return pretrained towers with a cell of fresh weights, where training starts."""
        from model.checkpoints.ret2 import untrained

        return cls(untrained(config))

    def compiled(
        self,
        precision: str = "float32",
        *,
        threads: int | None = None,
        cache: Path | None = None,
        calibration: Sequence[Input] = (),
        shared: bool = False,
    ) -> Retriever:
        """Compile the model for inference on a CPU with OpenVINO, where both are there, and return it.

        A compiled model cannot be trained, moved or saved. `stayed` has the parts that could not be compiled, with the
        reasons. The first time takes some seconds a part; its graphs are kept in `cache`. For int8 `calibration` has
        inputs as the model will read them. What towers of `shared` models have in common is in memory once.
        """
        if self.device.type == "cpu" and graph.available():
            from model.cpu.compiler import compile_parts

            threads = threads or torch.get_num_threads()
            self.stayed = compile_parts(self, precision, threads, cache or default_cache(), calibration, shared=shared)
            self.info = replace(self.info, precision=precision)
        return self

    @property
    def tower_names(self) -> list[str]:
        """The names of the towers that some input is read by, as submodules."""
        names = ["text_tower", "vision_tower", *(f"document_towers.{name}" for name in self.document_towers)]
        return [name for name in names if self.preprocessor.reads_text or "text" not in name]

    def prepare(self, item: Input, role: Role, limits: Limits) -> Prepared:
        return self.preprocessor.prepare(item, role, limits)

    def passages(self, text: str, cut: Cut, limits: Limits) -> Passages:
        return self.preprocessor.passages(text, cut, limits)

    def tower(self, modality: Modality, role: Role) -> nn.Module:
        """Return the tower that reads `modality` for `role`: the shared one, or the document side's own."""
        if role is Role.DOCUMENT and modality in self.document_towers:
            return self.document_towers[modality]
        tower: nn.Module = self.text_tower if modality == "text" else self.vision_tower
        return tower

    def side(self, role: Role) -> nn.Module:
        return self.sides["shared" if "shared" in self.sides else role.value]

    def encode(self, batch: Sequence[Prepared]) -> Float32:
        """Return the embeddings (B, E) in float32 and of unit length: the means of the inputs' latents."""
        return self.launch(batch)().vectors

    @torch.inference_mode()
    def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        """Start a forward, and return a function that waits for its result in any thread. On a CPU the result is ready
        when this returns, on CUDA it is not.

        No tower runs for an absent modality. Rows are sorted so that those of one kind are adjacent: their towers run
        over slices, the cell needs no masks of presence, and texts are padded to little more than their own length.
        """
        order = sorted(range(len(batch)), key=lambda row: _kind(batch[row]))
        rows = [
            self._encode_alike([batch[row] for row in places], towers_of)
            for towers_of, places in (
                (role, list(places)) for role, places in groupby(order, lambda row: self._towers_of(batch[row]))
            )
        ]
        received = _to_host(torch.cat(rows))
        back = np.argsort(order)
        return lambda: self._unpacked(received().numpy()[back])

    def _encode_alike(self, batch: Sequence[Prepared], towers_of: Role) -> Tensor:
        """Encode rows that are sorted by kind and share their towers. Return (B, ·) as `_packed` does."""
        pixels = [item.pixels for item in batch if item.pixels is not None]
        vision = self.vision_states(pixels, towers_of) if pixels else []  # each (images, P, Wv)
        seen = 0
        rows = []
        for (role, has_image, has_text), group in groupby(batch, lambda item: item.kind):
            for alike in self._alike_in_length(list(group)):
                states = States()
                if has_text:
                    states = States(
                        *self.text_states([item.tokens for item in alike if item.tokens is not None], towers_of)
                    )
                if has_image:
                    states = replace(states, vision=[layer[seen : seen + len(alike)] for layer in vision])
                    seen += len(alike)
                contributions: list[Tensor] = []
                latents = self.side(Role(role))(states, contributions)  # (b, K, E)
                rows.append(_packed(latents.float(), contributions))
        return torch.cat(rows)

    def _unpacked(self, rows: Float32) -> Encoded:
        """Undo `_packed`."""
        batch, size = len(rows), self.config.dimensions
        steps = self.config.gated_steps
        vectors, gates, latents = np.split(rows, [size, size + 2 * steps], axis=1)
        return Encoded(
            np.ascontiguousarray(vectors),
            gates.reshape(batch, steps, 2) if steps else None,
            latents.reshape(batch, -1, size) if self.config.latents > 1 else None,
        )

    def _alike_in_length(self, batch: list[Prepared]) -> Iterator[list[Prepared]]:
        """Split rows of one kind, longest text first, where padding would cost more than another pass."""
        allowed = _PADDING_CPU if self.device.type == "cpu" else _PADDING_DEVICE
        start, padding = 0, 0
        for row, item in enumerate(batch):
            padding += _length(batch[start]) - _length(item)
            if padding > allowed and self.preprocessor.text_positions is None:
                yield batch[start:row]
                start, padding = row, 0
        yield batch[start:]

    def _towers_of(self, item: Prepared) -> Role:
        """Return whose towers read an input: the document side's own if there are any, else those of the query side."""
        return item.role if self.document_towers else Role.QUERY

    def text_states(self, tokens: Sequence[NDArray[np.int64]], role: Role = Role.QUERY) -> tuple[list[Tensor], Tensor]:
        """Map token ids of several lengths to tapped states (B, T, Wt), padded to the longest, and the mask (B, T)."""
        ids, mask = padded(tokens)
        real_tokens = int(np.count_nonzero(mask))
        with self._counting:
            self.tokens, self.padding = self.tokens + real_tokens, self.padding + mask.size - real_tokens
        present = self._to_device(torch.from_numpy(mask))
        has_padding = not mask.all()  # where nothing is, attention is faster without a mask
        return self.tower("text", role)(
            self._to_device(torch.from_numpy(ids)), present.long() if has_padding else None
        ), present

    def vision_states(self, pixels: Sequence[Float32], role: Role = Role.QUERY) -> list[Tensor]:
        """Map pixels (3, S, S) of each image to tapped states (B, P, Wv). Only NaFlex towers accept images of several
        shapes."""
        images = [torch.from_numpy(image) for image in pixels]
        values: Tensor | list[Tensor]
        if len({image.shape for image in images}) == 1:
            values = self._to_device(torch.stack(images)).to(self.dtype)  # (B, 3, S, S)
        else:
            values = [self._to_device(image).to(self.dtype) for image in images]
        states: list[Tensor] = self.tower("vision", role)(values)
        return states

    def _to_device(self, values: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return values.to(self.device)
        return values.pin_memory().to(self.device, non_blocking=True)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self._parameter is None else self._parameter.dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self._parameter is None else self._parameter.device

    @property
    def _parameter(self) -> nn.Parameter | None:
        """One of a tower, or of what is left in torch; None of a model that is compiled as a whole."""
        return next(self.text_tower.parameters(), next(self.parameters(), None))


def _kind(item: Prepared) -> tuple[str, bool, bool, int]:
    """Return the kind of an input and the length by which inputs of one kind are sorted, longest first."""
    return *item.kind, -_length(item)


def _length(item: Prepared) -> int:
    return 0 if item.tokens is None else len(item.tokens)


def _packed(latents: Tensor, contributions: Sequence[Tensor]) -> Tensor:
    """Pack embeddings, shares (where there are gates) and latents (where there are several) into one tensor (B, E + 2L
    + KE), so that one transfer brings all to the host."""
    parts = [F.normalize(latents.mean(dim=1), dim=-1)]
    if contributions:
        parts.append(shares(contributions).flatten(1))
    if latents.shape[1] > 1:
        parts.append(F.normalize(latents, dim=-1).flatten(1))
    return torch.cat(parts, dim=1)


def _to_host(vectors: Tensor) -> Callable[[], Tensor]:
    if vectors.device.type != "cuda":
        values = vectors.cpu()
        return lambda: values
    host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True).copy_(vectors, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()

    def wait() -> Tensor:
        done.synchronize()
        return host

    return wait


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch type of a precision: float32, bfloat16 or float16."""
    dtype: torch.dtype = getattr(torch, precision)
    return dtype
