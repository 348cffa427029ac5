"""Packed layers compute what plain ones do, and are taken only where they are there and pay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_checkpoint
from torch import nn
from transformers.activations import ACT2FN

from model import retriever as retriever_module
from model.cell import Attention
from model.cpu import packed
from model.cpu.packed import PackedLinear, pack_linears, packing_pays
from model.retriever import Retriever
from model.types import Input, Limits, Role


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (5, 24), (2, 7, 24), (3, 1, 2, 24)])
@torch.inference_mode()
def test_a_packed_layer_equals_a_plain_one(shape: tuple[int, ...], bias: bool) -> None:
    plain = nn.Linear(24, 40, bias=bias)
    values = torch.randn(shape)
    torch.testing.assert_close(PackedLinear(plain.weight, plain.bias)(values), plain(values), atol=1e-5, rtol=0)
    turned = torch.randn(24, 9).T  # no contiguous rows
    torch.testing.assert_close(PackedLinear(plain.weight, plain.bias)(turned), plain(turned), atol=1e-5, rtol=0)


def test_what_is_more_than_linear_stays() -> None:
    class Scaled(nn.Linear):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return super().forward(values) * 2

    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Scaled(4, 4), nn.Linear(4, 2)))
    unpack = pack_linears(module)
    assert [type(one) for one in (module[0], module[1][0], module[1][1])] == [PackedLinear, Scaled, PackedLinear]
    assert module[0].weight.dtype == torch.float32
    unpack()
    assert [type(one) for one in (module[0], module[1][0], module[1][1])] == [nn.Linear, Scaled, nn.Linear]


class Mlp(nn.Module):
    """As transformers has it."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(24, 40), activation, nn.Linear(40, 8)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(values)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu", "relu", "mish"])
@torch.inference_mode()
def test_an_activation_goes_into_the_layer_before_it(name: str) -> None:
    module, values = Mlp(ACT2FN[name]), torch.randn(5, 24) * 4
    expected = module(values)
    unpack = pack_linears(module)
    assert isinstance(module.activation_fn, nn.Identity) == (name != "mish"), "what oneDNN does not know stays"
    torch.testing.assert_close(module(values), expected, atol=1e-5, rtol=0)
    unpack()
    assert type(module.activation_fn) is type(ACT2FN[name])
    torch.testing.assert_close(module(values), expected, atol=0, rtol=0)


@torch.inference_mode()
def test_an_activation_in_a_sequence_goes_too_unless_nobody_takes_its_scale_out() -> None:
    quick = ACT2FN["quick_gelu"]
    for module, fused in (
        (nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Dropout(), nn.Linear(6, 4), nn.ReLU()), [1, 4]),
        (nn.Sequential(nn.Linear(4, 6), quick, nn.Linear(6, 4), quick, nn.LayerNorm(4)), [1]),
        (nn.Sequential(nn.Linear(4, 6), quick), []),
    ):
        module.eval()
        values = torch.randn(3, 4) * 4
        expected = module(values)
        pack_linears(module)
        assert [place for place, one in enumerate(module) if isinstance(one, nn.Identity)] == fused
        torch.testing.assert_close(module(values), expected, atol=1e-5, rtol=0)


def test_a_packed_model_gives_the_same_embeddings(
    tmp_path: Path, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_tiny_checkpoint(tmp_path / "tiny"))
    plain = Retriever.load(folder)
    monkeypatch.setattr(retriever_module, "packing_pays", lambda dtype: True)
    faster = Retriever.load(folder).pack()
    assert not any(type(module) is nn.Linear for module in faster.modules())
    assert all(module._packed for module in faster.modules() if isinstance(module, Attention))
    items = [Input("a red square"), Input(image=png("red")), Input("what is the capital", png("blue")), Input("one")]
    batch = [plain.prepare(item, Role.QUERY, Limits()) for item in items]
    assert np.abs(plain.encode(batch) - faster.encode(batch)).max() < 1e-5


def test_a_model_stays_as_it_is_where_packing_does_not_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever_module, "packing_pays", lambda dtype: False)
    plain = Retriever.load(str(write_tiny_checkpoint(tmp_path / "tiny"))).pack()
    assert not any(isinstance(module, PackedLinear) for module in plain.modules())


def test_it_does_not_pay_when_it_is_slower_wrong_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, *_: Any) -> None: ...
        def __call__(self, values: torch.Tensor) -> torch.Tensor:
            return torch.zeros(values.shape[0], 768)

    def absent(*_: Any) -> None:
        raise AttributeError("no such operator")

    times = iter([[2.0, 1.0], [1.0, 1.0], [1.0, 2.0]])  # of the plain layer, then of the packed one
    monkeypatch.setattr(packed, "_best_of", lambda *works: next(times))
    pays = packing_pays.__wrapped__  # what it found is kept for the life of a process
    assert [pays(torch.float32) for _ in range(3)] == [True, False, False]
    times = iter([[2.0, 1.0]] * 3)
    assert not pays(torch.float16)
    monkeypatch.setattr(packed, "PackedLinear", Other)
    assert not pays(torch.float32)
    monkeypatch.setattr(packed, "PackedLinear", absent)
    assert not pays(torch.float32)
