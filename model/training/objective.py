"""What every training loop here shares: the loss, the optimizer's parts and state, the schedule, and embedding rows
kind by kind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.training.pairs import Row

BETAS = (0.9, 0.98)  # of AdamW
MAX_LOG_SCALE = math.log(100.0)

T = TypeVar("T")


def symmetric_cross_entropy(logits: Tensor, targets: Tensor, document_targets: Tensor) -> Tensor:
    """Return the loss in both directions. logits and targets (B, M) are of each query over the documents;
    document_targets (B, B) are of the first B documents, the queries' own, over the queries. The documents after them
    are hard negatives, which answer no query."""
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits[:, : len(logits)].T, document_targets)) / 2


class Kept(Enum):
    """What a row of text and image keeps in a step."""

    BOTH = 1
    TEXT = 2
    IMAGE = 3


def draw_kept(rows: int, keep_both: float, rng: random.Random) -> list[Kept]:
    """Draw for each row what it keeps: both with the chance `keep_both`, else text or image with equal chances.

    The shares over all rows are exact to within one row: matrix products of a new shape take longer, and a step took
    half as long again where the numbers were left to chance.
    """
    start = rng.random()
    places = [(row + start) / rows for row in range(rows)]
    rng.shuffle(places)
    alone = keep_both + (1 - keep_both) / 2
    return [Kept.BOTH if place < keep_both else Kept.TEXT if place < alone else Kept.IMAGE for place in places]


def drop_modality(text: str, text_alone: str, image: str, parts: Kept) -> Row:
    return {Kept.BOTH: (text, image), Kept.TEXT: (text_alone, None), Kept.IMAGE: (None, image)}[parts]


def decay_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, other_parameters: Sequence[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer: matrices decay, vectors and other parameters do not."""
    parameter_list = list(parameters)
    return [
        {"params": [value for value in parameter_list if value.dim() > 1], "weight_decay": weight_decay},
        {"params": [*(value for value in parameter_list if value.dim() <= 1), *other_parameters], "weight_decay": 0.0},
    ]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return AdamW's moments as `adam.NUMBER.KEY`, numbered in the order of its parameters."""
    return {
        f"adam.{number}.{key}": value
        for number, parameter in enumerate(_optimized(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, number, key = name.split(".", 2)
            states.setdefault(int(number), {})[key] = value
    for place, parameter in enumerate(_optimized(optimizer)):
        # AdamW counts steps on the CPU, wherever the parameter is; a parameter that never had a gradient has no
        # moments.
        if place in states:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in states[place].items()
            }


def _optimized(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [value for group in optimizer.param_groups for value in group["params"]]


def embed_by_kind(rows: Sequence[T], kind: Callable[[T], Any], embed: Callable[[Sequence[T]], Tensor]) -> Tensor:
    """Embed rows to (N, E) of unit length. Rows of one kind go together, so that no time is spent on an absent
    modality."""
    order = sorted(range(len(rows)), key=lambda row: kind(rows[row]))
    parts = [embed([rows[row] for row in alike]) for _, alike in groupby(order, key=lambda row: kind(rows[row]))]
    back = torch.empty(len(rows), dtype=torch.long)
    back[order] = torch.arange(len(rows))
    return F.normalize(torch.cat(parts), dim=-1)[back]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16. On two cores with AVX512-BF16 a step took half the time; a CPU that
    emulates it would take longer."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Scheduled(Protocol):
    @property
    def steps(self) -> int: ...

    @property
    def warmup_steps(self) -> int: ...


def schedule(step: int, settings: Scheduled) -> float:
    """Return the factor of the learning rate: a linear warm-up, then a cosine down to a twentieth."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, progress))) / 2
