"""Linear layers for inference on a CPU: weights laid out once as oneDNN's kernels read them, instead of at every call.

torch's own path for float32 is MKL's, which has no AVX-512 on processors of other makers: packed, the towers of CLIP are two to three
times as fast there. The results differ by rounding alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TRIAL = (256, 768, 768)  # rows, inputs, outputs: a batch of texts in a tower of CLIP
_TRIALS = 5
_WORTH_IT = 1.05
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of outputs that are of size 1


class PackedLinear(nn.Module):
    """`nn.Linear` that cannot learn, move or be saved any more. `weight` is empty: there for who asks for its dtype or device."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._packed, self.bias, "none", [], "")
        return result


def pack_linears(module: nn.Module) -> Callable[[], None]:
    """Replaces every `nn.Linear` inside `module`, and returns what takes that back. Those of a subclass stay: they may do more."""
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child.weight, child.bias))

    def unpack() -> None:
        for parent, name, child in found:
            setattr(parent, name, child)

    return unpack


@cache
@torch.inference_mode()
def packing_pays(dtype: torch.dtype) -> bool:
    """Whether this processor and this torch have it, compute the same with it, and are faster: tried, in some milliseconds."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if dtype not in _TOLERANCE or not available:
        return False
    rows, inputs, outputs = _TRIAL
    values = torch.randn(rows, inputs).to(dtype)
    weight, bias = (torch.randn(outputs, inputs) * inputs**-0.5).to(dtype), torch.randn(outputs).to(dtype)
    try:
        packed = PackedLinear(weight, bias)
        difference = (packed(values) - F.linear(values, weight, bias)).abs().max().item()
    except (
        AttributeError,
        NotImplementedError,
        RuntimeError,
    ):  # another build of torch: it is no part of its public interface
        return False
    plain_s = _best_of(lambda: F.linear(values, weight, bias))
    return difference <= _TOLERANCE[dtype] and _best_of(lambda: packed(values)) * _WORTH_IT < plain_s


def _best_of(work: Callable[[], object]) -> float:
    """Seconds."""
    seconds = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
