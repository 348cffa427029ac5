"""Weights that several models have in common are in memory once.

Models are compared by the bytes of their weights, not by their files: a tower that two checkpoints read from the same
package is shared however each of them cuts or folds it. For inference alone, for who shares a weight must not change
it.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# Smaller ones are not worth a look: all biases and norms of a large model are a megabyte.
_MIN_BYTES = 64 * 1024


class _Pool:
    """What is in use, by what it is made of. An entry ends with its last user."""

    def __init__(self) -> None:
        self._values: weakref.WeakValueDictionary[Hashable, object] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            value = self._values.get(key)
            if value is None:
                self._values[key] = value = make()
            return value  # type: ignore[return-value]


_POOL = _Pool()


def share_weights(module: nn.Module) -> None:
    """Replace each large weight of `module` that another module has too by that module's own."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            if weight.numel() * weight.element_size() >= _MIN_BYTES:
                key = (*weight_key(weight), weight.stride(), str(weight.device), weight.requires_grad)
                setattr(part, name, _POOL.get(key, lambda weight=weight: weight))  # type: ignore[misc]


@torch.inference_mode()
def weight_key(weight: Tensor) -> tuple[Hashable, ...]:
    """Return what tells the values of a tensor from any others: their digest, shape and type."""
    values = weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(values.data, digest_size=20).digest(), tuple(weight.shape), weight.dtype
