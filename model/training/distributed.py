"""The processes of one training run, as torchrun starts them: what is summed over them, and what they agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.errors import InvalidInput

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is the `rank`-th of `world`. Every method must be called by all of them, in the same order."""

    rank: int = 0
    world: int = 1
    device: torch.device = _CPU

    @property
    def first(self) -> bool:
        return self.rank == 0

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        return bool(self.add(torch.tensor(float(flag), device=self.device)) > 0) if self.world > 1 else flag

    def from_first(self, tensor: Tensor) -> Tensor:
        """Copy a tensor from the first process, in place."""
        if self.world > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes. A parameter that no process used keeps no gradient, as with one
        process, so that AdamW leaves it alone."""
        if self.world == 1:
            return
        parameter_list = list(parameters)
        used = torch.tensor([float(value.grad is not None) for value in parameter_list], device=self.device)
        for value, count in zip(parameter_list, self.add(used).tolist(), strict=True):
            if count and value.grad is None:
                value.grad = torch.zeros_like(value)
        sums = [dist.all_reduce(value.grad, async_op=True) for value in parameter_list if value.grad is not None]
        for reduction in sums:
            if reduction is not None:
                reduction.wait()


@contextmanager
def joined(device: str | None = None) -> Iterator[Ranks]:
    """Join the group that torchrun's variables describe, and leave it at the end; without them the group is this
    process.

    gloo on a CPU, NCCL on CUDA, where each process of a machine takes the GPU of its number. A `device` of None means
    CUDA where it is available.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(kind)
    except RuntimeError as error:
        raise InvalidInput(f"device is {kind!r}: {str(error).splitlines()[0]}", field="device") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device is {kind!r}, but this machine or this build of torch has no CUDA", field="device")
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(device=chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, chosen)
    finally:
        dist.destroy_process_group()
