from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model.checkpoints.sources import locate
from model.checkpoints.weights import load_strict, read_config, read_tensors, save_checkpoint
from model.errors import InvalidInput
from model.towers.efficientnet import EfficientNetLite0Classifier


def test_strict_loading_lists_all_that_does_not_fit() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(InvalidInput) as caught:
        load_strict(module, {"weight": torch.zeros(2, 2), "extra": torch.zeros(1)}, "here")
    assert caught.value.detail == (
        "here: 3 weights do not fit: missing bias (3,); unexpected extra (1,); weight is (2, 2), expected (3, 2). The "
        "weights and config.json are not those of one model: copy or download both again"
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


@pytest.mark.parametrize("same_config", [True, False])
def test_a_save_that_is_broken_off_leaves_a_pair_that_belongs_together_or_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_config: bool
) -> None:
    """Broken off before its first change of the folder, its second and so on, until one save runs through."""
    config = {False: {"name": "old"}, True: {"name": "old" if same_config else "new"}}
    weights = {is_new: {"weight": torch.full((2,), float(is_new))} for is_new in (False, True)}
    real = {name: getattr(Path, name) for name in ("replace", "unlink")}
    seen = []
    for allowed in range(9):
        folder = tmp_path / str(allowed)
        save_checkpoint(folder, config[False], weights[False])
        left = iter(range(allowed))

        def change(self: Path, *arguments: Any, name: str, left: Iterator[int] = left, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real[name](self, *arguments, **options)

        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(Path, name, partialmethod(change, name=name))
            with suppress(KeyboardInterrupt):
                save_checkpoint(folder, config[True], weights[True])
        if not (folder / "model.safetensors").exists():
            seen.append("none")
            continue
        is_new = bool(read_tensors(folder / "model.safetensors")["weight"].any())
        assert read_config(folder) == config[is_new]
        seen.append("new" if is_new else "old")
    assert {"old", "new"} <= set(seen)
    assert ("none" in seen) is not same_config
    assert seen[-1] == "new"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "no folder 'no/such/folder'"),
        ("folder:inner", "no folder"),
        ("package:surely_not_installed/x", "'surely_not_installed' is not installed"),
        ("package:rich/no-such", "has no folder 'no-such'"),
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
    root = Path(__file__).parents[4]
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
    index = json.loads(
        (Path(__file__).parents[4] / "model" / "checkpoints" / "efficientnet_lite0.index.json").read_text()
    )
    shapes = {
        key: list(value.shape)
        for key, value in EfficientNetLite0Classifier().state_dict().items()
        if not key.endswith("tracked")
    }
    assert {key: shape for key, (_, shape, _) in index["tensors"].items()} == shapes
