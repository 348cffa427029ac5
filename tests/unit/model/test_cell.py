from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_model import CONFIG
from torch import nn

from model.cell import Attention, RecurrentCell, sinusoids


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("queries", "tokens", "way"), [(3, 7, "_by_query"), (9, 7, "_by_context"), (2, 1, "_of_one")])
def test_attention_equals_torch_whichever_way_it_is_computed(
    bias: bool, queries: int, tokens: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Attention(32, 4, bias=bias, dropout=0.0).eval()
    if bias:
        nn.init.normal_(ours.in_proj_bias)
    theirs = nn.MultiheadAttention(32, 4, bias=bias, batch_first=True).eval()
    theirs.load_state_dict(ours.state_dict())
    query, context = torch.randn(5, queries, 32), torch.randn(5, tokens, 32)
    mask = torch.arange(tokens)[None] < torch.tensor([7, 1, 3, 6, 2])[:, None] if tokens > 1 else None
    expected, _ = theirs(query, context, context, key_padding_mask=None if mask is None else ~mask)
    for other in {"_by_query", "_by_context", "_of_one"} - {way}:
        monkeypatch.setattr(ours, other, None)
    torch.testing.assert_close(ours(query, context, mask), expected, atol=1e-5, rtol=0)


def test_a_row_that_attends_to_nothing_is_finite() -> None:
    """Its presence is 0, and 0 times NaN would be NaN."""
    attention = Attention(32, 4, bias=False, dropout=0.0).eval()
    for queries in (1, 9):
        nothing = attention(torch.randn(2, queries, 32), torch.randn(2, 7, 32), torch.zeros(2, 7, dtype=torch.bool))
        assert nothing.isfinite().all()


def cell(**changes: object) -> RecurrentCell:
    return RecurrentCell(replace(CONFIG, **changes)).eval()


@torch.inference_mode()
def test_leaving_a_modality_out_equals_masking_it() -> None:
    step, text, vision = cell(), torch.randn(2, 4, 32), torch.randn(2, 6, 32)
    state, gone = step.initial(2), torch.zeros(2)
    torch.testing.assert_close(step(state, None, vision), step(state, text, vision, text_present=gone))
    torch.testing.assert_close(step(state, text, None), step(state, text, vision, image_present=gone))


@torch.inference_mode()
def test_shut_gates_leave_neither_words_nor_past() -> None:
    """With both gates shut the new state is zero before the MLP, so nothing of input or state is left in it."""
    step = cell(input_gate_prior=-1e4, forget_gate_prior=-1e4)
    state, text = step.initial(2), torch.randn(2, 4, 32)
    expected = step.mlp(step.mlp_norm(torch.zeros(2, CONFIG.num_latents, 32)))
    torch.testing.assert_close(step(state * 9, text, None), expected)
    assert not cell()(state, text, None).allclose(expected, atol=1e-3)


@torch.inference_mode()
def test_tanh_bounds_the_state_that_is_carried() -> None:
    step = cell(state_tanh=True)
    step.mlp[3].weight.zero_()
    step.mlp[3].bias.zero_()  # leaves C alone: |C| <= |tanh R| f + |tanh Z| i <= 2
    huge = step.initial(1) * 1e4
    assert step(huge, torch.randn(1, 4, 32), None).abs().max() <= 2
    step.state_tanh = False
    assert step(huge, torch.randn(1, 4, 32), None).abs().max() > 2


def test_positions_are_sinusoids_or_nothing() -> None:
    assert cell(latent_positions=False).positions.abs().max() == 0
    table = sinusoids(3, 8)
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1.0] * 4))
    torch.testing.assert_close(table[2, :2], torch.tensor([2.0, 2.0 + torch.pi / 2]).sin())
    assert torch.equal(cell().positions[0], sinusoids(CONFIG.num_latents, CONFIG.hidden_size))
