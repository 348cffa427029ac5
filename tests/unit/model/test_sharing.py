"""Weights that several models have in common are in memory once, and what is not the same is not taken for it."""

import gc

from needs import needed

torch = needed("torch")

from torch import nn  # noqa: E402

from model.sharing import share_weights  # noqa: E402

WIDTH = 256


def layer(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, WIDTH).requires_grad_(False)


def test_equal_weights_are_one() -> None:
    first, second, other = layer(1), layer(1), layer(2)
    for module in (first, second, other):
        share_weights(module)
    assert second.weight is first.weight
    assert other.weight is not first.weight
    values = torch.ones(3, WIDTH)
    assert torch.equal(first(values), second(values))
    assert not torch.equal(first(values), other(values))


def test_a_weight_of_another_type_or_order_is_not_the_same() -> None:
    first, half, turned = layer(1), layer(1).to(torch.bfloat16), layer(1)
    turned.weight = nn.Parameter(first.weight.T.contiguous().T, requires_grad=False)
    for module in (first, half, turned):
        share_weights(module)
    assert len({id(module.weight) for module in (first, half, turned)}) == 3


def test_small_weights_stay_their_own() -> None:
    first, second = layer(1), layer(1)
    for module in (first, second):
        share_weights(module)
    assert second.bias is not first.bias


def test_nothing_is_kept_for_models_that_are_gone() -> None:
    first = layer(3)
    share_weights(first)
    address = id(first.weight)
    del first
    gc.collect()
    second = layer(3)
    keeper = second.weight
    share_weights(second)
    assert second.weight is keeper or id(second.weight) != address
