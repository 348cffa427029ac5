"""What came from text and what from image, where the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import CONFIG, write_tiny_checkpoint

from model.cell import RecurrentCell
from model.contributions import shares
from model.ret2 import Ret2
from model.retriever import Retriever
from model.states import States
from model.types import Input, Limits, Prepared, Role


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def shares_of(model: Ret2, states: States) -> torch.Tensor:
    contributions: list[torch.Tensor] = []
    with torch.inference_mode():
        model.eval()(states, contributions)
    return shares(contributions)  # (B, L, 2)


def small() -> Ret2:
    return Ret2(CONFIG, (16, 16), (24, 24))


TEXT, VISION = [torch.ones(2, 4, 16)] * 2, [torch.ones(2, 6, 24)] * 2


def test_a_modality_that_is_absent_has_no_share() -> None:
    model, mixed = small(), torch.tensor([1.0, 0.0])
    assert shares_of(model, States(text=TEXT)).tolist() == [[[1, 0]] * 2] * 2
    assert shares_of(model, States(vision=VISION)).tolist() == [[[0, 1]] * 2] * 2
    masked = shares_of(model, States(text=TEXT, vision=VISION, image_present=mixed))
    assert masked[1].tolist() == [[1, 0]] * 2
    assert (masked[0] > 0.01).all()


def test_gates_that_are_shut_let_nothing_in() -> None:
    model, both = small(), States(text=TEXT, vision=VISION)
    model.cell.vision_input_gate.weight.data.zero_()
    model.cell.vision_input_gate.bias.data.fill_(-1e4)
    assert shares_of(model, both).tolist() == [[[1, 0]] * 2] * 2
    model.cell.text_input_gate.weight.data.zero_()
    model.cell.text_input_gate.bias.data.fill_(-1e4)
    assert shares_of(model, both).tolist() == [[[0, 0]] * 2] * 2


def test_a_share_is_the_mean_of_what_came_in() -> None:
    """Gates half open, and every channel of Z_t reads 3 and of Z_v 1: three quarters are the text's."""
    step = RecurrentCell(CONFIG).eval()
    for gate in (step.text_input_gate, step.vision_input_gate):
        gate.weight.data.zero_()
        gate.bias.data.fill_(-CONFIG.input_gate_prior)
    step.text_attention.forward = lambda query, *_: torch.full_like(query, -3.0)  # type: ignore[method-assign]
    step.vision_attention.forward = lambda query, *_: torch.ones_like(query)  # type: ignore[method-assign]
    contributions: list[torch.Tensor] = []
    with torch.inference_mode():
        step(step.initial(1), torch.randn(1, 4, 32), torch.randn(1, 6, 32), contributions=contributions)
    torch.testing.assert_close(contributions, [torch.tensor([[1.5, 0.5]])])
    assert shares(contributions).tolist() == [[[0.75, 0.25]]]


def test_asking_changes_no_embedding() -> None:
    model, both = small().eval(), States(text=TEXT, vision=VISION)
    with torch.inference_mode():
        assert torch.equal(model(both), model(both, []))


def test_shares_and_latents_do_not_depend_on_the_batch(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """Promise 7 holds for them too; rows come back in the order given."""
    several = Retriever.load(str(write_tiny_checkpoint(tmp_path, replace(CONFIG, pooling="none"))))
    assert several.info.latents == CONFIG.num_latents
    rows = [("one", None), ("a red square", "red"), (None, "blue"), ("what is this country", "red"), ("red flag", None)]
    batch: list[Prepared] = [
        several.prepare(Input(text, png(colour) if colour else None), Role.QUERY, Limits()) for text, colour in rows
    ]
    together, alone = several.launch(batch)(), [several.launch([item])() for item in batch]
    assert together.shares is not None
    assert together.latents is not None
    assert together.shares.shape == (5, CONFIG.steps, 2)
    assert together.latents.shape == (5, CONFIG.num_latents, CONFIG.dimensions)
    np.testing.assert_allclose(together.shares, np.concatenate([one.shares for one in alone]), atol=1e-5)
    np.testing.assert_allclose(together.latents, np.concatenate([one.latents for one in alone]), atol=1e-5)
    np.testing.assert_allclose(together.shares.sum(axis=2), 1, atol=1e-6)
    assert [bool(image) for image in together.shares[:, :, 1].any(axis=1)] == [False, True, True, True, False]
    mean = together.latents.mean(axis=1)
    np.testing.assert_allclose(
        together.vectors, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5
    )  # an embedding is the mean of its latents


@pytest.mark.parametrize(
    ("changes", "gates"),
    [({"pooling": "mean"}, True), ({"fusion": "sum", "pooling": "none"}, False)],
    ids=["pooled", "sum"],
)
def test_a_model_without_gates_or_latents_gives_none(tmp_path: Path, changes: dict[str, str], gates: bool) -> None:
    model = Retriever.load(str(write_tiny_checkpoint(tmp_path, replace(CONFIG, **changes))))  # type: ignore[arg-type]
    encoded = model.launch([model.prepare(Input("a red square"), Role.QUERY, Limits())])()
    assert encoded.latents is None
    assert (encoded.shares is not None) == gates
    assert model.info.latents == 1
    assert encoded.vectors.shape == (1, CONFIG.dimensions)
