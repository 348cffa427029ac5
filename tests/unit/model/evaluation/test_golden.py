from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from model.checkpoints.weights import read_tensors, save_tensors
from model.cpu import graph
from model.errors import InvalidInput
from model.evaluation.golden import GOLDEN_FILE, TOLERANCE, verify
from model.retriever import Retriever
from model.states import States
from model.types import Role

GOLDEN = Path(__file__).parents[3] / "golden" / "ret-v1-small"


def test_ret_v1_equals_its_authors_code() -> None:
    differences = {item.output: item for item in verify(GOLDEN)}
    assert set(differences) == {
        "query_features",
        "query_features_unmasked",
        "passage_features",
        "passage_features_unmasked",
        "maxsim",
    }
    assert all(item.passed for item in differences.values()), differences


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not graph.available(), reason="needs openvino")
def test_compiled_it_equals_its_authors_code_too(tmp_path: Path) -> None:
    """The graphs read one kind of input at a time, so each row is computed with what is present of it."""
    folder = shutil.copytree(GOLDEN, tmp_path / "model")
    # Without a tokeniser a model reads no text.
    Tokenizer(models.WordLevel({"[UNK]": 3}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    retriever = Retriever.load(str(folder)).compiled(cache=tmp_path / "cache")
    assert retriever.stayed == {}
    golden = read_tensors(folder / GOLDEN_FILE)
    mask = golden["attention_mask"]
    for name, role in (("query_features", Role.QUERY), ("passage_features", Role.DOCUMENT)):
        text = retriever.tower("text", role)(golden["input_ids"], mask)
        vision = retriever.tower("vision", role)(golden["pixel_values"])
        whole = retriever.side(role)(States(text, mask.bool(), vision))
        assert (whole - golden[f"{name}_unmasked"]).abs().max() <= TOLERANCE
        for row, (has_text, has_image) in enumerate(zip(golden["text_mask"], golden["image_mask"], strict=True)):
            part = slice(row, row + 1)
            states = States(
                text=[layer[part] for layer in text] if has_text else None,
                text_mask=mask[part].bool() if has_text else None,
                vision=[layer[part] for layer in vision] if has_image else None,
            )
            assert (retriever.side(role)(states) - golden[name][part]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "key",
    [
        "query_model.ret_cell.query_hidden_states",
        "query_model.text_adapter.3.weight",
        "query_model.ret_cell.vision_forget_gate_w.bias",
    ],
)
def test_one_changed_weight_is_seen(tmp_path: Path, key: str) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "changed")
    tensors = read_tensors(folder / "model.safetensors")
    tensors[key].view(-1)[0] += 0.5
    save_tensors(folder / "model.safetensors", tensors)
    outcome = {item.output: item.passed for item in verify(folder)}
    assert not outcome["query_features"]
    assert outcome["passage_features"]


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("query_model.ret_cell.mlp.0.weight", None, "missing cell.mlp.0.weight"),
        ("query_model.ret_cell.surprise", torch.zeros(2), "unexpected ret_cell.surprise"),
        ("query_model.late_proj.weight", torch.zeros(16, 63), r"projection.weight is \(16, 63\), expected \(16, 64\)"),
        ("third_model.late_proj.weight", torch.zeros(2), "third_model"),
    ],
)
def test_every_key_and_shape_is_checked(tmp_path: Path, key: str, tensor: torch.Tensor | None, message: str) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "broken")
    tensors = read_tensors(folder / "model.safetensors")
    if tensor is None:
        del tensors[key]
    else:
        tensors[key] = tensor
    save_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(InvalidInput, match=message):
        verify(folder)


def test_an_output_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "more")
    golden = read_tensors(folder / "golden.safetensors")
    save_tensors(folder / "golden.safetensors", {**golden, "pasage_features": golden["passage_features"].clone()})
    with pytest.raises(InvalidInput, match="has pasage_features, known outputs are query_features, "):
        verify(folder)
