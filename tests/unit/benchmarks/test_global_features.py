"""A model joined out of a cell and a plain sum: its parts are theirs, and its embedding is the sum of both."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from tiny_model import CONFIG

from benchmarks.global_features import joined
from model.ret2 import Ret2, build_fusion
from model.states import States


def test_a_joined_model_is_the_sum_of_its_parts() -> None:
    widths = [16] * len(CONFIG.text.layers), [24] * len(CONFIG.vision.layers)
    configs = {
        "cell": CONFIG,
        "sum": replace(CONFIG, fusion="sum"),
        "both": replace(CONFIG, global_features="added"),
    }
    sides = {name: build_fusion(config, *widths).eval() for name, config in configs.items()}
    cell, plain_sum = (
        {f"shared.{key}": value for key, value in sides[name].state_dict().items()} for name in ("cell", "sum")
    )
    both = sides["both"]
    assert isinstance(both, Ret2)
    both.load_state_dict({key.removeprefix("shared."): value for key, value in joined(cell, plain_sum, 0.5).items()})
    states = States(
        [torch.randn(2, 5, width) for width in widths[0]],
        torch.ones(2, 5, dtype=torch.bool),
        [torch.randn(2, 7, width) for width in widths[1]],
    )
    with torch.inference_mode():
        state, features = (sides[name](states)[:, 0] for name in ("cell", "sum"))
        torch.testing.assert_close(both.parts(states), torch.stack([state, features], dim=1))
        torch.testing.assert_close(both(states)[:, 0], F.normalize(state + 0.5 * features, dim=-1))
