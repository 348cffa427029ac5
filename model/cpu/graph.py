"""A part of a model as a graph of OpenVINO: one native call, during which other Python threads run.

The only module that imports openvino.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# openvino sends a message over the network at every import, unless this package is absent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino
except ImportError:
    openvino = None

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
# With more threads than this the rows of one batch are too few for all of them: batches are computed side by side.
_THREADS_PER_STREAM = 8


def available() -> bool:
    return openvino is not None


def version() -> str:
    return "none" if openvino is None else str(openvino.__version__)


def computes_bfloat16() -> bool:
    """Return whether this processor has instructions for products in bfloat16 (AVX512-BF16, AMX, Arm BF16)."""
    return openvino is not None and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def streams(threads: int) -> int:
    """Return how many batches are computed side by side."""
    return max(1, threads // _THREADS_PER_STREAM)


class Graph:
    """A graph compiled for this processor. Thread-safe: each thread has a request of its own."""

    def __init__(self, graph: Any, precision: str, threads: int) -> None:
        self._compiled = _core().compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "NUM_STREAMS": streams(threads),
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._outputs = len(self._compiled.outputs)
        self._requests = threading.local()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        results = request.infer([value.contiguous().numpy() for value in inputs], share_inputs=True)
        return [torch.from_numpy(results[place]) for place in range(self._outputs)]


def convert(module: nn.Module, example: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Any:
    """Trace a module over example inputs, and return its graph for inputs of `shapes`, where -1 is any size."""
    with warnings.catch_warnings(), torch.no_grad():
        # Those of the tracer, about numbers that it takes for constants: the graph is compared with the module later.
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(module.eval(), example_input=tuple(example))
    graph.reshape({port: openvino.PartialShape(list(shape)) for port, shape in zip(graph.inputs, shapes, strict=True)})
    return graph


def assembled(outputs: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """Return a graph from inputs to outputs of operations that are part of a graph already."""
    return openvino.Model([openvino.op.Result(output) for output in outputs], list(inputs))


def input_like(output: Any) -> Any:
    """Return an input of a graph for the values of an operation's output."""
    return openvino.op.Parameter(output.get_element_type(), output.get_partial_shape())


def read(path: Path) -> Any:
    """Read a graph, whose weights are mapped. Raises `RuntimeError` for a file that is damaged."""
    return _core().read_model(str(path))


def save(graph: Any, path: Path) -> bool:
    """Write a graph so that other processes find all of it or nothing. Return whether the folder can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
            draft = Path(folder) / path.name
            openvino.save_model(graph, str(draft), compress_to_fp16=False)
            # The weights first: whoever finds the graph finds them too.
            draft.with_suffix(".bin").replace(path.with_suffix(".bin"))
            draft.replace(path)
    except (OSError, RuntimeError):
        return False
    return True


def release_mapped(folder: Path) -> None:
    """Give back the memory of weights that are mapped from the files of `folder`.

    Compiled graphs have copies of most of them, in the layout that they compute in. What they read of the rest comes
    back from the page cache. A mapping that was written to stays as it is.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        place, _, counters = mapping.partition("\n")
        if f" {folder.resolve()}/" in place and re.search(r"^Anonymous: +0 kB", counters, re.MULTILINE):
            start, end = (int(address, 16) for address in place.split()[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


@cache
def _core() -> Any:
    # The bindings find numpy when it is first needed. Two threads that both are first wait for each other for ever, so
    # it is needed here, before there is a second one.
    _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino.Core()
