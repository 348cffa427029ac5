from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from model.efficientnet import EfficientNetLite0
from model.errors import InvalidInput
from model.weights import load_strict, locate, read_config, read_tensors, save_checkpoint


def test_strict_loading_lists_all_that_does_not_fit() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(InvalidInput) as caught:
        load_strict(module, {"weight": torch.zeros(2, 2), "extra": torch.zeros(1)}, "here")
    assert caught.value.detail == (
        "here: 3 weights do not fit: missing bias (3,); unexpected extra (1,); weight is (2, 2), expected (3, 2)"
    )


def test_checkpoints_are_kept_in_half_precision_and_widened(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    save_checkpoint(tmp_path / "new", {"model_type": "ret2"}, module.state_dict())
    loaded = nn.Linear(2, 3)
    load_strict(loaded, read_tensors(tmp_path / "new" / "model.safetensors"), "test")
    assert loaded.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.weight, module.weight.half().float())
    assert read_config(tmp_path / "new") == {"model_type": "ret2"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "no folder 'no/such/folder'"),
        ("folder:inner", "no folder"),
        ("package:surely_not_installed/x", "'surely_not_installed' is not installed"),
        ("package:rich/no-such", "has no folder 'no-such'"),
        ("hub:org/name", "needs a pinned revision"),
        ("hub:org/name@main", "needs a pinned revision"),
    ],
)
def test_a_source_that_is_not_there_says_so(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        locate(source, beside=tmp_path if source.startswith("folder") else None)


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("{", "is not JSON"), ("[1]", "holds list")])
def test_a_broken_config_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        read_config(tmp_path)


def test_a_broken_weights_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(InvalidInput, match="model\\.safetensors"):
        read_tensors(tmp_path / "model.safetensors")


def test_nothing_unpickles() -> None:
    """Promise 13: no module of ours calls anything that loads a pickle."""
    root = Path(__file__).parents[3]
    for path in [file for package in ("model", "indexer", "service") for file in (root / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {
                    "pickle",
                    "shelve",
                    "dill",
                    "joblib",
                    "cloudpickle",
                }, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("np", "load"), ("pickle", "loads")}, path


def test_the_index_of_published_weights_covers_the_network() -> None:
    index = json.loads((Path(__file__).parents[3] / "model" / "efficientnet_lite0.index.json").read_text())
    shapes = {
        key: list(value.shape) for key, value in EfficientNetLite0().state_dict().items() if not key.endswith("tracked")
    }
    assert {key: shape for key, (_, shape, _) in index["tensors"].items()} == shapes
