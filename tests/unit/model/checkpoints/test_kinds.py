"""Folders that are no checkpoint, or not all of one: each is named for what it is, with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dual_encoders import write_dual_encoder
from safetensors.torch import load_file, save_file
from tiny_model import write_tiny_checkpoint

from model.errors import InvalidInput
from model.retriever import Retriever


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dual_encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dual_encoder(tmp_path_factory.mktemp("split"), max_shard_size="10KB")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Retriever.load(str(folder))


def written(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"is empty\. A model is a folder with config\.json and model\.safetensors"),
        (
            ("open_clip_config.json", "open_clip_model.safetensors"),
            "OpenCLIP's own format. Take the same model in transf",
        ),
        (("modules.json", "0_CLIPModel/config.json"), "its CLIP lies in 0_CLIPModel: name that folder"),
        (("modules.json", "1_Pooling/config.json"), "is a sentence-transformers model, which ret2 does not serve"),
        (("adapter_config.json", "adapter_model.safetensors"), "is an adapter without the model it was trained on"),
        (("model_index.json", "unet/config.json"), "is a pipeline that makes images"),
        (("a.jpg", "b.PNG", "inner/c.webp"), "holds 3 images and no model. To search them: ret2 load FOLDER"),
        (("run.json", "state.safetensors"), "is a training run that has kept no checkpoint yet"),
        (("notes.md",), r"has no config\.json, so it is no model \(found notes\.md\)"),
    ],
)
def test_a_folder_without_config_is_named_for_what_it_is(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    refused(written(tmp_path, *names), message)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("bert", "is a bert: a text encoder alone.*ret2 train --text-backbone"),
        ("clip_text_model", "is a clip_text_model: a text encoder alone"),
        ("vit", "is a vit: an image encoder alone.*ret2 train --text-backbone"),
        ("qwen2", "is a model of type 'qwen2', which ret2 does not serve. It serves clip, siglip and siglip2"),
        ("blip", "is a model of type 'blip', which ret2 does not serve"),
        ("something-new", "is a model of type 'something-new', which ret2 does not serve"),
        (None, "is a model of type None, which ret2 does not serve"),
    ],
)
def test_another_kind_of_model_is_named(model_type: str | None, message: str, clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]
    (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    refused(folder, message)


def test_a_file_and_a_name_of_the_hub_are_no_folder(clip: Path) -> None:
    refused(clip / "model.safetensors", "is a file: name the folder that contains it")
    refused(Path("org/name"), r"no folder 'org/name' .*for the hub's model write hub:org/name\)")
    with pytest.raises(InvalidInput, match="no model 'nowhere' is bundled; bundled models: atlas"):
        Retriever.load("bundled:nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights: neither model.safetensors nor"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"has only pickled weights \(pytorch_model\.bin\), and a pickle can run code, so it is never loaded",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "model.onnx"),
            r"has no weights: .*\(found model\.onnx\)",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            "model.safetensors is no complete safetensors file|incomplete|invalid",
        ),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "config.json is not JSON"),
    ],
)
@pytest.mark.parametrize("kind", ["clip", "ret2"])
def test_a_folder_that_lacks_a_part_says_which(
    kind: str, change: Callable[[Path], object], message: str, clip: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(clip, tmp_path / "c") if kind == "clip" else write_tiny_checkpoint(tmp_path / "t")
    change(folder)
    refused(folder, message)


def test_a_dual_encoder_without_a_tokeniser_says_so(clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "clip")
    (folder / "tokenizer.json").unlink()
    refused(folder, r"clip has no tokeniser: tokenizer\.json is missing .* Copy it beside config\.json")


def test_a_missing_part_of_the_weights_is_named(split: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(split, tmp_path / "split")
    parts = sorted(folder.glob("model-*.safetensors"))
    parts[1].unlink()
    refused(folder, rf"lacks 1 of its {len(parts)} weight files: {parts[1].name}\. Download")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": "../outside.safetensors"}}, r"names '\.\./outside\.safetensors', expected a safetensors"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, r"names 'pytorch_model\.bin', expected a safetensors file"),
    ],
)
def test_an_index_names_safetensors_files_beside_it(index: object, message: str, split: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(split, tmp_path / "split")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_projection.weight": None}, "1 weight does not fit: missing text_projection.weight"),
        ({"visual_projection.weight": torch.ones(4, 16)}, r"visual_projection.weight is \(4, 16\), expected \(8, 16\)"),
        ({"ret_cell.mlp.0.weight": torch.ones(2)}, "ret_cell.mlp.0.weight has no place"),
    ],
)
def test_weights_that_do_not_fit_are_listed(
    change: dict[str, torch.Tensor | None], message: str, clip: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(clip, tmp_path / "changed")
    weights = {**load_file(folder / "model.safetensors"), **change}
    kept = {key: value for key, value in weights.items() if value is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, message)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (None, {"projection_dim": "many"}, "projection_dim"),
        ("text_config", {"num_attention_heads": 3}, "clip"),
        ("vision_config", {"hidden_size": -1}, "clip"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_no_traceback(
    part: str | None, change: dict[str, object], message: str, clip: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(clip, tmp_path / "clip-changed")
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(change)
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, message)


def test_without_logit_scale_nothing_is_missed(clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert Retriever.load(str(folder)).info.dimensions == 8
