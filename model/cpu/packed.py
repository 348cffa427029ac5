"""Linear layers for inference on a CPU: weights laid out once as oneDNN's kernels read them, instead of at every call.

torch's own path for float32 is MKL's, which has no AVX-512 on processors of other makers: packed, the towers of CLIP
are two to three times as fast there. An activation after a layer is applied to its product before that is written to
memory: CLIP's took 14 % of a picture's time as a step of its own. The results differ by rounding alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cpu.primitive_cache import keep_prepared
from model.sharing import packed_weight

# A batch of texts has the shape of its tokens: hundreds of MB after some thousand batches, if all stay prepared. With
# 64 what was dropped is prepared again for a few percent of the time.
keep_prepared(64)

# Rows, inputs, outputs: one text in a tower of CLIP. On some processors several hundred rows are as fast either way.
_TRIAL = (16, 768, 768)
_TRIALS = 40
_WORTH_IT = 1.05
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of outputs that are of size 1


@dataclass(frozen=True, slots=True)
class Activation:
    """oneDNN's name for `f`.

    What comes out is `scale · f(x)`: the layer that reads it has to take the scale out again.
    """

    name: str
    algorithm: str = ""
    scale: float = 1.0  # of the product, before it


# CLIP's x · sigmoid(1.702 x) is, but for the scale, the swish of 1.702 x.
_ACTIVATIONS = (
    Activation("gelu", "none"),
    Activation("gelu", "tanh"),
    Activation("swish", scale=1.702),
    Activation("relu"),
)

# Children of one module, called one after the other, by the names that transformers gives them: a layer, its
# activation, who reads that.
_IN_TURN = (("fc1", "activation_fn", "fc2"), ("dense", "intermediate_act_fn", None))


class PackedLinear(nn.Module):
    """`nn.Linear`, with the activation after it if one is given, that cannot learn, move or be saved any more. `weight`
    is empty: there for who asks for its dtype or device."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> None:
        super().__init__()
        self._activation = activation or Activation("none")
        scale = self._activation.scale
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach() * scale, requires_grad=False)
        self._packed = packed_weight(weight.detach() * scale)

    def forward(self, values: Tensor) -> Tensor:
        name, algorithm = self._activation.name, self._activation.algorithm
        result: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._packed.values, self.bias, name, [], algorithm)
        return result


def pack_linears(module: nn.Module) -> Callable[[], None]:
    """Replace every `nn.Linear` inside `module`, and return a function that undoes it. Subclasses stay, because they
    may do more."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(parent: nn.Module, name: str, replacement: nn.Module) -> None:
        replaced.append((parent, name, getattr(parent, name)))
        setattr(parent, name, replacement)

    for parent in list(module.modules()):
        children = dict(parent.named_children())
        linears = {name: child for name, child in children.items() if type(child) is nn.Linear}
        activations: dict[str, Activation] = {}
        scales: dict[str, float] = {}
        for name, between, reader in _in_turn(parent):
            activation = _known(children[between]) if name in linears and between in children else None
            if activation is not None and (activation.scale == 1 or reader in linears):
                activations[name] = activation
                scales[reader or ""] = activation.scale
                replace(parent, between, nn.Identity())
        for name, child in linears.items():
            weight = child.weight / scales[name] if name in scales else child.weight
            replace(parent, name, PackedLinear(weight, child.bias, activations.get(name)))

    def unpack() -> None:
        for parent, name, child in replaced:
            setattr(parent, name, child)

    return unpack


def _in_turn(parent: nn.Module) -> Iterable[tuple[str, str, str | None]]:
    if not isinstance(parent, nn.Sequential):
        return _IN_TURN
    names = [name for name, _ in parent.named_children()]
    return zip_longest(names[:-1], names[1:], names[2:])


@torch.inference_mode()
def _known(module: nn.Module) -> Activation | None:
    """Return the activation that `module` computes, judged by its values in this build of torch, or None."""
    if next(module.parameters(), None) is not None or any(True for _ in module.children()):
        return None
    values = torch.linspace(-8, 8, 161).unsqueeze(1)
    expected = module(values)
    for activation in _ACTIVATIONS:
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError):
            actual = PackedLinear(torch.ones(1, 1), None, activation)(values) / activation.scale
            if torch.allclose(actual, expected, rtol=0, atol=1e-5):
                return activation
    return None


@cache
@torch.inference_mode()
def packing_pays(dtype: torch.dtype) -> bool:
    """Return whether packed layers exist on this processor and in this torch, compute the same values, and are faster.
    The trial takes some milliseconds."""
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
    plain_s, packed_s = _best_of(lambda: F.linear(values, weight, bias), lambda: packed(values))
    return difference <= _TOLERANCE[dtype] and packed_s * _WORTH_IT < plain_s


def _best_of(*works: Callable[[], object]) -> list[float]:
    """Return the shortest time of each work in seconds, measured in turn."""
    best = [math.inf] * len(works)
    for _ in range(_TRIALS):
        for place, work in enumerate(works):
            began = time.perf_counter()
            work()
            best[place] = min(best[place], time.perf_counter() - began)
    return best
