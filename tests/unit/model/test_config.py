from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_model import CONFIG

from model.config import Ret2Config
from model.errors import InvalidInput
from model.training.atlas import VARIANTS


@pytest.mark.parametrize("config", [CONFIG, *VARIANTS.values(), replace(CONFIG, output_size=None, shared_sides=False)])
def test_json_round_trip(config: Ret2Config) -> None:
    assert Ret2Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def changed(path: str, value: object) -> dict[str, object]:
    whole = json.loads(json.dumps(CONFIG.to_json()))
    *parents, last = path.split(".")
    place = whole
    for parent in parents:
        place = place[parent]
    place[last] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("hiden_size", 3, "unknown keys: hiden_size"),
        ("text.layer", [1], "config.text has unknown keys: layer"),
        ("hidden_size", "big", "config.hidden_size is 'big'"),
        ("num_latents", True, "config.num_latents is True"),
        ("fusion", "product", "config.fusion is 'product'"),
        ("image.mean", [0.5], r"config.image.mean is \[0.5\]"),
        ("hidden_size", 33, "33 is not a multiple of num_heads 2"),
        ("text.layers", [0], "text taps 1 layers and vision 2"),
        ("text", None, "config.text is None"),
    ],
)
def test_a_wrong_config_says_where_and_what(path: str, value: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Ret2Config.from_json(changed(path, value))


def test_a_missing_key_is_named() -> None:
    whole = CONFIG.to_json()
    del whole["vision"]
    with pytest.raises(InvalidInput, match="vision"):
        Ret2Config.from_json(whole)


def test_the_committed_checkpoint_has_the_configuration_that_training_uses() -> None:
    folder = Path(__file__).parents[3] / "model" / "checkpoints" / "ret2-atlas"
    assert Ret2Config.from_json(json.loads((folder / "config.json").read_text())) == VARIANTS["ret2-atlas"]
