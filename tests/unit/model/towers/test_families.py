"""Every family of backbones, from a folder as its users have it, against transformers' own hidden states: random weights, toy sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from model.config import BackboneConfig
from model.errors import InvalidInput
from model.towers.towers import TransformersTower, build_tower, flat_patches

LAYERS = (2, 0, 3)
DEPTH = 4
TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
NAFLEX = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
T = transformers
# What is saved, and what a hidden state is asked of: the whole model, one half, or a model with a head on top.
TEXT_MODELS = {
    "clip": lambda: T.CLIPTextModel(T.CLIPTextConfig(**TEXT)),
    "clip, two towers": lambda: T.CLIPModel(T.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)),
    "clip, projected": lambda: T.CLIPTextModelWithProjection(T.CLIPTextConfig(**TEXT, projection_dim=8)),
    "siglip": lambda: T.SiglipTextModel(T.SiglipTextConfig(**TEXT)),
    "siglip, two towers": lambda: T.SiglipModel(T.SiglipConfig(text_config=TEXT, vision_config=VISION)),
    "siglip2": lambda: T.Siglip2TextModel(T.Siglip2TextConfig(**TEXT)),
    "siglip2, two towers": lambda: T.Siglip2Model(T.Siglip2Config(text_config=TEXT, vision_config=NAFLEX)),
    "bert": lambda: T.BertModel(T.BertConfig(**TEXT)),
    "bert, masked words": lambda: T.BertForMaskedLM(T.BertConfig(**TEXT)),
    "bert, no pooler": lambda: T.BertModel(T.BertConfig(**TEXT), add_pooling_layer=False),
}
VISION_MODELS = {
    "clip": (lambda: T.CLIPVisionModel(T.CLIPVisionConfig(**VISION)), 1),
    "clip, two towers": (TEXT_MODELS["clip, two towers"], 1),
    "clip, projected": (lambda: T.CLIPVisionModelWithProjection(T.CLIPVisionConfig(**VISION, projection_dim=8)), 1),
    "siglip": (lambda: T.SiglipVisionModel(T.SiglipVisionConfig(**VISION)), 0),
    "siglip, two towers": (TEXT_MODELS["siglip, two towers"], 0),
    "siglip2": (lambda: T.Siglip2VisionModel(T.Siglip2VisionConfig(**NAFLEX)), 0),
    "siglip2, two towers": (TEXT_MODELS["siglip2, two towers"], 0),
    "vit": (lambda: T.ViTModel(T.ViTConfig(**VISION)), 1),
    "vit, classifier": (lambda: T.ViTForImageClassification(T.ViTConfig(**VISION)), 1),
    "dinov2": (lambda: T.Dinov2Model(T.Dinov2Config(**VISION, mlp_ratio=2)), 1),
    "dinov2, classifier": (lambda: T.Dinov2ForImageClassification(T.Dinov2Config(**VISION, mlp_ratio=2)), 1),
    "dinov2, swiglu": (lambda: T.Dinov2Model(T.Dinov2Config(**VISION, use_swiglu_ffn=True)), 1),
    "dinov2, registers": (
        lambda: T.Dinov2WithRegistersModel(T.Dinov2WithRegistersConfig(**VISION, num_register_tokens=3)),
        4,
    ),
}
IDS = torch.tensor([[1, 5, 6, 7, 8, 2], [1, 9, 2, 0, 0, 0], [1, 17, 30, 11, 2, 0]])
LENGTHS = (6, 3, 5)
MASK = (torch.arange(6)[None] < torch.tensor(LENGTHS)[:, None]).long()


def scrambled(make: Any, folder: Path) -> Any:
    """A model with every weight random (many start at zero or one, which would hide a lost one), saved to `folder`."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.2)
    model.save_pretrained(folder)
    return model


def tower(folder: Path, modality: str, image_px: int | None = None, layers: tuple[int, ...] = LAYERS) -> Any:
    return build_tower(BackboneConfig("transformers", "folder:x", layers), modality, folder, {}, image_px)


def own_states(model: Any, modality: str, **inputs: Any) -> list[torch.Tensor]:
    """What transformers says each block returned. Its tuple may end with the state after the final norm; the blocks are watched too."""
    half = getattr(model, f"{modality}_model", model)
    half = getattr(half, half.base_model_prefix, half)
    raw: list[torch.Tensor] = []
    blocks = next(m for m in half.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == DEPTH)
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: raw.append(out[0] if isinstance(out, tuple) else out))
        for block in blocks
    ]
    hidden = half(**inputs, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    assert len(hidden) == DEPTH + 1
    for index in range(DEPTH - 1):  # where the last is normed is transformers' own affair
        torch.testing.assert_close(hidden[index + 1], raw[index], atol=0, rtol=0)
    return raw


@pytest.mark.parametrize("name", TEXT_MODELS)
@torch.inference_mode()
def test_text_states_are_transformers_own(name: str, tmp_path: Path) -> None:
    model = scrambled(TEXT_MODELS[name], tmp_path)
    ours = tower(tmp_path, "text")
    if name.startswith("siglip"):  # as its processor does: full length, the pad token attended, no mask
        expected = own_states(model, "text", input_ids=torch.nn.functional.pad(IDS, (0, 6)))
    else:
        expected = own_states(model, "text", input_ids=IDS, attention_mask=MASK)
    for state, layer in zip(ours(IDS, MASK), LAYERS, strict=True):
        assert state.shape == (*IDS.shape, 16)
        torch.testing.assert_close(state[MASK.bool()], expected[layer][:, :6][MASK.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TEXT_MODELS)
@torch.inference_mode()
def test_a_text_does_not_depend_on_its_padding(name: str, tmp_path: Path) -> None:
    scrambled(TEXT_MODELS[name], tmp_path)
    ours = tower(tmp_path, "text")
    together = ours(IDS, MASK)
    for row, length in enumerate(LENGTHS):
        for both, alone in zip(together, ours(IDS[row : row + 1, :length], MASK[row : row + 1, :length]), strict=True):
            torch.testing.assert_close(both[row, :length], alone[0], atol=1e-5, rtol=0)
    filler = torch.where(MASK.bool(), IDS, 33)  # what stands under the mask is nobody's business
    for left, right in zip(together, ours(filler, MASK), strict=True):
        torch.testing.assert_close(left[MASK.bool()], right[MASK.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", VISION_MODELS)
@torch.inference_mode()
def test_vision_states_are_transformers_own(name: str, tmp_path: Path) -> None:
    make, extra = VISION_MODELS[name]
    model = scrambled(make, tmp_path)
    pixels = torch.randn(3, 3, 32, 32)
    ours = tower(tmp_path, "vision", 32)
    expected = own_states(model, "vision", **vision_inputs(name, pixels))
    assert ours.patches == 16 + extra
    for state, layer in zip(ours(pixels), LAYERS, strict=True):
        assert state.shape == (3, ours.patches, 16)
        torch.testing.assert_close(state, expected[layer], atol=1e-5, rtol=0)


def vision_inputs(name: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """As transformers' processors hand them over; NaFlex patches by its processor's own function, with a mask over all of them."""
    if not name.startswith("siglip2"):
        return {"pixel_values": pixels}
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches, pad_along_first_dim

    padded = [pad_along_first_dim(convert_image_to_patches(image.numpy(), 8), 16) for image in pixels]
    return {
        "pixel_values": torch.stack([torch.from_numpy(patches) for patches, _ in padded]),
        "pixel_attention_mask": torch.stack([torch.from_numpy(mask) for _, mask in padded]),
        "spatial_shapes": torch.tensor([[pixels.shape[-1] // 8] * 2] * len(pixels)),
    }


@pytest.mark.parametrize("name", ["siglip2", "dinov2", "dinov2, registers"])
@torch.inference_mode()
def test_towers_whose_positions_stretch_take_other_sizes(name: str, tmp_path: Path) -> None:
    make, extra = VISION_MODELS[name]
    model = scrambled(make, tmp_path)
    pixels = torch.randn(2, 3, 48, 48)
    ours = tower(tmp_path, "vision", 48)
    expected = own_states(model, "vision", **vision_inputs(name, pixels))
    assert ours.patches == 36 + extra
    for state, layer in zip(ours(pixels), LAYERS, strict=True):
        torch.testing.assert_close(state, expected[layer], atol=1e-5, rtol=0)
    with pytest.raises(InvalidInput, match=r"image.size_px 50 is not a multiple of the vision tower's patch 8"):
        tower(tmp_path, "vision", 50)


@pytest.mark.parametrize("name", ["clip", "siglip", "vit"])
def test_towers_of_one_size_take_no_other(name: str, tmp_path: Path) -> None:
    scrambled(VISION_MODELS[name][0], tmp_path)
    with pytest.raises(InvalidInput, match=r"image\.size_px is 48, the vision tower takes 32"):
        tower(tmp_path, "vision", 48)


def test_patches_are_rows_of_cells_with_channels_last() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    patches, grid = flat_patches(pixels, 2)
    assert patches.shape == (2, 4, 12)
    assert grid.tolist() == [[2, 2], [2, 2]]
    assert patches[0, 1].tolist() == [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39]  # top right


@torch.inference_mode()
def test_colbert_is_a_bert_with_a_projection_that_stays_in_the_file(tmp_path: Path) -> None:
    """colbert-ir/colbertv2.0: model_type bert, weights under `bert.`, and `linear.weight`."""
    model = scrambled(TEXT_MODELS["bert"], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    named = {f"bert.{key}": value for key, value in weights.items()} | {"linear.weight": torch.randn(8, 16)}
    save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = own_states(model, "text", input_ids=IDS, attention_mask=MASK)
    for state, layer in zip(tower(tmp_path, "text")(IDS, MASK), LAYERS, strict=True):
        torch.testing.assert_close(state[MASK.bool()], expected[layer][MASK.bool()], atol=1e-5, rtol=0)


def test_a_folder_with_pickled_weights_alone_is_refused(tmp_path: Path) -> None:
    model = scrambled(TEXT_MODELS["bert"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match=r"has only pickled weights \(pytorch_model\.bin\)"):
        tower(tmp_path, "text")


def test_a_folder_that_needs_its_own_code_is_refused(tmp_path: Path) -> None:
    scrambled(TEXT_MODELS["bert"], tmp_path)
    (tmp_path / "modeling_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = {"model_type": "x", "auto_map": {"AutoConfig": "modeling_x.XConfig", "AutoModel": "modeling_x.XModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInput, match=tmp_path.name):
        tower(tmp_path, "text")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.layer.2.output.dense.weight": None}, "1 weight does not fit: missing encoder.layer.2.output.dense"),
        ({"embeddings.LayerNorm.weight": torch.ones(3)}, r"embeddings.LayerNorm.weight is \(3,\), expected \(16,\)"),
    ],
)
def test_a_folder_must_be_whole(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    scrambled(TEXT_MODELS["bert"], tmp_path)
    weights = {**load_file(tmp_path / "model.safetensors"), **change}
    weights = {key: value for key, value in weights.items() if value is not None}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match=message):
        tower(tmp_path, "text")


def test_a_broken_folder_says_so(tmp_path: Path) -> None:
    scrambled(TEXT_MODELS["bert"], tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(InvalidInput, match=rf"{tmp_path.name}/.* is no complete safetensors file .*download it again"):
        tower(tmp_path, "text")
    (tmp_path / "config.json").unlink()
    with pytest.raises(InvalidInput, match=tmp_path.name):
        tower(tmp_path, "text")


def test_a_checkpoints_tower_has_neither_more_nor_less(tmp_path: Path) -> None:
    weights = scrambled(TEXT_MODELS["siglip"], tmp_path).state_dict()
    part = BackboneConfig(
        "transformers", "checkpoint", LAYERS, architecture={"model_type": "siglip_text_model", **TEXT}
    )
    assert isinstance(build_tower(part, "text", None, weights), TransformersTower)
    with pytest.raises(InvalidInput, match="text tower: 1 weight does not fit: unexpected surprise"):
        build_tower(part, "text", None, weights | {"surprise": torch.zeros(2)})
    del weights["final_layer_norm.bias"]
    with pytest.raises(InvalidInput, match=r"text tower: 1 weight does not fit: missing final_layer_norm\.bias"):
        build_tower(part, "text", None, weights)


@pytest.mark.parametrize(("name", "modality"), [("bert", "vision"), ("vit", "text")])
def test_a_tower_of_the_other_modality_is_refused(name: str, modality: str, tmp_path: Path) -> None:
    scrambled(TEXT_MODELS[name] if modality == "vision" else VISION_MODELS[name][0], tmp_path)
    with pytest.raises(InvalidInput, match=f"the {modality} tower is a .*, which does not read"):
        tower(tmp_path, modality)
