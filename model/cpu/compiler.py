"""Compile the parts of a model for a CPU.

A part is traced once and its graph kept in the cache; later starts map the file. A part that cannot be traced, or whose
graph does not compute what the module computes, stays in torch.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from model.cpu.compiled import (
    KINDS,
    CompiledSide,
    CompiledTower,
    Inputs,
    Kind,
    compiled_graph,
    file_name,
    graph_folder,
    inputs_of,
    is_side,
    precision_of_part,
    present,
)
from model.cpu.graph import Graph, convert, read, release_mapped, save
from model.cpu.trunks import TrunkGraph
from model.errors import InvalidInput
from model.preprocess import image_pixels, padded
from model.states import States
from model.towers.efficientnet import EfficientNetLite0
from model.towers.towers import NAFLEX, TransformersEncoder, naflex_inputs
from model.types import Input, Limits, Role

if TYPE_CHECKING:
    from model.retriever import Retriever

# What the values of a graph may differ by from those of its module, as a part of the largest.
_TOLERANCE = 1e-4
# The graphs of a model that was not loaded for so long are removed from the cache.
_UNUSED_S = 30 * 86_400.0
# What parts are traced with, and what their graphs are compared by: texts of several lengths, and noise.
_TRACED = ("two cats on a blue sofa", "a flag")
_COMPARED = ("what is the capital of this country", "one", "a photograph of a red bicycle beside a house")


def compile_parts(
    retriever: Retriever,
    precision: str,
    threads: int,
    folder: Path,
    calibration: Sequence[Input] = (),
    *,
    shared: bool = False,
) -> dict[str, str]:
    """Replace the parts of a model by compiled ones and free their weights in torch. `folder` is the cache.

    `calibration` has the inputs by which ranges of int8 are chosen. What towers of `shared` models have in common is
    compiled once.

    Return the parts that stayed in torch, each with the reason.
    """
    compiler = _Compiler(retriever, precision, threads, folder, calibration, shared)
    stayed = {}
    # The sides first: to trace them takes the states of towers that are still modules.
    for name in [*(f"sides.{side}" for side in retriever.sides), *retriever.tower_names]:
        part = retriever.get_submodule(name)
        if next(part.parameters(), None) is None:
            continue
        try:
            retriever.set_submodule(name, compiler.compile(name, part))
        except InvalidInput:
            raise
        except Exception as error:  # noqa: BLE001  whatever a tracer or a compiler raises, the module serves
            stayed[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    _prune(compiler.folder)
    release_mapped(compiler.folder.parent)
    del part
    # Hooks refer to their towers, so no count of references ends.
    gc.collect()
    return stayed


def embedded_patches(embeddings: nn.Module, values: Tensor | Sequence[Tensor], patch_size: int) -> Inputs:
    """Return the embedded patches (B, P, W) of NaFlex images and the mask (B, P) of those that are no padding."""
    inputs = naflex_inputs(values, patch_size)
    hidden: Tensor = embeddings(inputs["pixel_values"], inputs["spatial_shapes"])
    mask = inputs["pixel_attention_mask"]
    return hidden, torch.ones(hidden.shape[:2], dtype=torch.long) if mask is None else mask


class _Forward(nn.Module):
    """A module as the tracer wants it: tensors in, a tuple of tensors out."""

    def __init__(self, module: nn.Module, call: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.module = module
        self._call = call

    def forward(self, *inputs: Tensor) -> Inputs:
        return tuple(self._call(*inputs))


@dataclass(frozen=True, slots=True)
class _Trace:
    """A module, inputs to trace it with, and inputs to compare its graph by."""

    module: _Forward
    traced: Inputs
    compared: Inputs


@dataclass(frozen=True, slots=True)
class _Example:
    """Texts and as many pictures of noise, as towers read them."""

    ids: Tensor | None
    mask: Tensor | None
    pixels: Tensor | Sequence[Tensor]


class _Compiler:
    """Compiles the parts of one model, by graphs in its folder of the cache."""

    def __init__(
        self,
        retriever: Retriever,
        precision: str,
        threads: int,
        folder: Path,
        calibration: Sequence[Input],
        shared: bool,
    ) -> None:
        self._retriever, self._precision, self._threads = retriever, precision, threads
        self._calibration, self._shared = calibration, shared
        self.folder = graph_folder(retriever, folder)

    @torch.inference_mode()
    def compile(self, name: str, part: nn.Module) -> nn.Module:
        """Return a part that computes the same. Raises whatever the tracer or the compiler does."""
        if not is_side(name):
            return self._compiled_tower(name, part)
        role = Role.QUERY if name == "sides.shared" else Role(name.removeprefix("sides."))
        kinds = [kind for kind in KINDS if self._retriever.preprocessor.reads_text or not kind.text]
        return CompiledSide(
            {kind: self._graph(f"{name}-{kind.name}", part, partial(self._side, part, role, kind)) for kind in kinds}
        )

    def _compiled_tower(self, name: str, tower: Any) -> CompiledTower:
        graph = self._graph(name, tower, lambda: self._tower(name, tower))
        if not _is_naflex(tower):
            return CompiledTower(graph, convolves=_convolves(tower))
        config, embeddings = tower.encoder.config, tower.encoder.embeddings
        return CompiledTower(graph, embed=partial(embedded_patches, embeddings, patch_size=config.patch_size))

    def _graph(self, name: str, part: nn.Module, trace: Callable[[], _Trace]) -> Graph | TrunkGraph:
        graph = self._kept(name, lambda: self._traced(trace()))
        if self._precision == "int8" and not is_side(name):
            full = graph
            graph = self._kept(file_name(name, "int8"), lambda: _quantized(full, self._samples(name)))
        precision = precision_of_part(self._precision, _convolves(part))
        return compiled_graph(name, graph, precision, self._threads, shared=self._shared)

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a graph out of the cache, made anew if it is not there or damaged."""
        path = self.folder / f"{name}.xml"
        if path.exists():
            with suppress(RuntimeError):
                return read(path)
        graph = make()
        return read(path) if save(graph, path) else graph

    def _traced(self, trace: _Trace) -> Any:
        graph = convert(trace.module, trace.traced, [_any_size(value) for value in trace.traced])
        self._compare(graph, trace)
        return graph

    def _samples(self, name: str) -> list[Inputs]:
        """Return the inputs of a tower, a row each, of every sample that has its modality."""
        tower = self._retriever.get_submodule(name)
        limits = Limits()
        rows = [self._retriever.prepare(item, Role.DOCUMENT, limits) for item in self._calibration]
        if _is_text(name):
            ids = [torch.from_numpy(row.tokens)[None] for row in rows if row.tokens is not None]
            return [(values, torch.ones_like(values)) for values in ids]
        pixels = [torch.from_numpy(row.pixels)[None] for row in rows if row.pixels is not None]
        return [_vision_inputs(tower, values) for values in pixels]

    def _compare(self, graph: Any, trace: _Trace) -> None:
        """Raise `ValueError` unless a graph computes what its module does, for other sizes than it was traced with."""
        expected = trace.module(*trace.compared)
        actual = Graph(graph, "float32", self._threads)(*trace.compared)
        for values, reference in zip(actual, expected, strict=True):
            difference = float((values - reference).abs().max() / reference.abs().max().clamp(min=1))
            # Negated, so that NaN fails too.
            if not difference <= _TOLERANCE:
                raise ValueError(f"its graph differs from it by {difference:.1e} of the largest value")

    def _tower(self, name: str, tower: Any) -> _Trace:
        if _is_text(name):
            texts = [(present(example.ids), present(example.mask)) for example in self._examples]
            return _Trace(_Forward(tower, tower), *texts)
        inputs = [_vision_inputs(tower, example.pixels) for example in self._examples]
        call = partial(_read_embedded, tower) if _is_naflex(tower) else tower
        return _Trace(_Forward(tower, call), *inputs)

    def _side(self, side: nn.Module, role: Role, kind: Kind) -> _Trace:
        states = [self._states(example, role, kind) for example in self._examples]
        texts = len(states[0].text or ())

        def forward(*inputs: Tensor) -> list[Tensor]:
            contributions: list[Tensor] = []
            mask, text, vision = (
                (inputs[0], inputs[1 : 1 + texts], inputs[1 + texts :]) if texts else (None, (), inputs)
            )
            latents = side(States(text or None, mask, vision or None), contributions)
            return [latents, *contributions]

        return _Trace(_Forward(side, forward), *(inputs_of(part) for part in states))

    def _states(self, example: _Example, role: Role, kind: Kind) -> States:
        states = States()
        if kind.text:
            text = self._retriever.tower("text", role)(example.ids, example.mask)
            states = replace(states, text=text, text_mask=present(example.mask).bool())
        if kind.image:
            states = replace(states, vision=self._retriever.tower("vision", role)(example.pixels))
        return states

    @cached_property
    def _examples(self) -> tuple[_Example, _Example]:
        return self._example(_TRACED), self._example(_COMPARED)

    def _example(self, texts: Sequence[str]) -> _Example:
        preprocessor = self._retriever.preprocessor
        ids = mask = None
        if preprocessor.reads_text:
            rows, places = padded([preprocessor.tokens(text)[0] for text in texts])
            ids, mask = torch.from_numpy(rows), torch.from_numpy(places).long()
        noise = np.random.default_rng(len(texts))
        sizes = [(90 + 20 * place, 110) for place in range(len(texts))]
        pictures = [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
        pixels = [torch.from_numpy(image_pixels(picture, preprocessor.image)) for picture in pictures]
        alike = len({image.shape for image in pixels}) == 1
        return _Example(ids, mask, torch.stack(pixels) if alike else pixels)


class _Embedded(nn.Module):
    """Stands for the embeddings of a NaFlex tower whose patches are embedded already."""

    def forward(self, hidden: Tensor, _shapes: None) -> Tensor:
        return hidden


def _read_embedded(tower: Any, hidden: Tensor, mask: Tensor) -> list[Tensor]:
    embeddings, tower.encoder.embeddings = tower.encoder.embeddings, _Embedded()
    try:
        states: list[Tensor] = tower(hidden, mask)
        return states
    finally:
        tower.encoder.embeddings = embeddings


def _any_size(value: Tensor) -> list[int]:
    """Return the shape of a graph's input: any number of rows, tokens and patches; images have one size."""
    return [-1, *value.shape[1:]] if value.dim() == 4 else [-1, -1, *value.shape[2:]]


def _vision_inputs(tower: Any, pixels: Tensor | Sequence[Tensor]) -> Inputs:
    if _is_naflex(tower):
        return embedded_patches(tower.encoder.embeddings, pixels, tower.encoder.config.patch_size)
    assert isinstance(pixels, Tensor)
    return (pixels,)


def _quantized(graph: Any, samples: Sequence[Inputs]) -> Any:
    # Here, for nncf is an extra, and takes seconds to import.
    from model.cpu.quantized import quantize

    return quantize(graph, samples)


def _is_text(name: str) -> bool:
    return name.endswith(("text", "text_tower"))


def _convolves(part: nn.Module) -> bool:
    return any(isinstance(module, EfficientNetLite0) for module in part.modules())


def _is_naflex(tower: Any) -> bool:
    return isinstance(tower, TransformersEncoder) and tower.encoder.config.model_type == NAFLEX


def _prune(folder: Path) -> None:
    """Remove the graphs that other code made of this model, and those of models that are not loaded any more."""
    with suppress(OSError):
        os.utime(folder)
        for sibling in folder.parent.iterdir():
            same_model = sibling.name.partition("-")[0] == folder.name.partition("-")[0]
            if sibling != folder and (same_model or time.time() - sibling.stat().st_mtime > _UNUSED_S):
                shutil.rmtree(sibling, ignore_errors=True)
