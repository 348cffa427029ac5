"""A checkpoint against golden outputs kept beside it: the proof that this code computes what its authors' code
computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.weights import read_tensors
from model.errors import InvalidInput
from model.evaluation.maxsim import maxsim
from model.retriever import Retriever
from model.states import States
from model.types import Role

GOLDEN_FILE = "golden.safetensors"
TOLERANCE = 1e-5
_INPUTS = {"input_ids", "attention_mask", "pixel_values", "text_mask", "image_mask"}
_SIDES = {"query_features": Role.QUERY, "passage_features": Role.DOCUMENT}


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest absolute difference of one output, or why it could not be compared."""

    output: str
    shape: tuple[int, ...]
    largest: float

    @property
    def passed(self) -> bool:
        return self.largest <= TOLERANCE  # NaN fails


@torch.inference_mode()
def verify(folder: Path) -> list[Difference]:
    """Recompute every output in `golden.safetensors` from its inputs in float32, and return the differences.

    Raises `InvalidInput` if there are no outputs, or one that is unknown here: an output that is not compared would
    count as right.
    """
    golden = read_tensors(folder / GOLDEN_FILE)
    retriever = Retriever.load(str(folder))
    computed: dict[str, Tensor] = {}
    for name, role in _SIDES.items():
        computed[name] = _features(retriever, golden, role, golden.get("text_mask"), golden.get("image_mask"))
        computed[f"{name}_unmasked"] = _features(retriever, golden, role, None, None)
    if retriever.ret2_config.pooling == "none":
        computed["maxsim"] = maxsim(computed["query_features"], computed["passage_features"])
    if unknown := sorted(golden.keys() - _INPUTS - computed.keys()):
        raise InvalidInput(f"{GOLDEN_FILE} has {', '.join(unknown)}, known outputs are {', '.join(computed)}")
    compared = [_difference(name, golden[name], computed[name]) for name in computed if name in golden]
    if not compared:
        raise InvalidInput(f"{GOLDEN_FILE} has none of the outputs {', '.join(computed)}")
    return compared


def _features(
    retriever: Retriever,
    golden: dict[str, Tensor],
    role: Role,
    text_present: Tensor | None,
    image_present: Tensor | None,
) -> Tensor:
    mask = golden["attention_mask"]
    states = States(
        text=retriever.tower("text", role)(golden["input_ids"], mask),
        text_mask=mask.bool(),
        vision=retriever.tower("vision", role)(golden["pixel_values"]),
        text_present=text_present,
        image_present=image_present,
    )
    latents: Tensor = retriever.side(role)(states)
    return latents[:, 0] if retriever.ret2_config.pooling == "mean" else latents


def _difference(name: str, expected: Tensor, actual: Tensor) -> Difference:
    if expected.shape != actual.shape:
        return Difference(f"{name}: shape {tuple(actual.shape)}, expected", tuple(expected.shape), float("nan"))
    return Difference(name, tuple(expected.shape), (expected - actual).abs().max().item())
