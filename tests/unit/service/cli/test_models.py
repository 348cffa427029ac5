"""`ret2 models`, as a shell sees it: what it prints and how it exits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dual_encoders import write_dual_encoder
from typer.testing import CliRunner

from model.checkpoints.known import BUNDLED_MODELS
from model.checkpoints.sources import BUNDLED
from model.checkpoints.weights import read_tensors, save_tensors
from model.evaluation import self_check
from model.retriever import Retriever
from service.cli.main import app

GOLDEN = Path(__file__).parents[3] / "golden" / "ret-v1-small"


def test_verify_prints_the_largest_difference_of_every_output() -> None:
    result = CliRunner().invoke(app, ["models", "verify", str(GOLDEN)])
    assert result.exit_code == 0
    for output in ("query_features", "passage_features", "query_features_unmasked", "maxsim"):
        assert output in result.stdout
    assert "e-0" in result.stdout


def test_verify_exits_1_when_an_output_differs(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "changed")
    golden = read_tensors(folder / "golden.safetensors")
    golden["query_features"][0, 0, 0] += 2e-5
    save_tensors(folder / "golden.safetensors", golden)
    result = CliRunner().invoke(app, ["models", "verify", str(folder)])
    assert result.exit_code == 1
    assert "NO" in result.stdout


def test_verify_tries_a_model_without_golden_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dual_encoder(tmp_path / "clip")
    result = CliRunner().invoke(app, ["models", "verify", str(folder)])
    assert result.exit_code == 0, result.output
    for check in ("finite", "unit length", "batch = single", "inputs differ"):
        assert check in result.stdout
    assert "NO" not in result.stdout
    real = self_check._encode

    def longer(*arguments: object) -> object:
        return real(*arguments) * 2  # type: ignore[arg-type]

    monkeypatch.setattr(self_check, "_encode", longer)
    result = CliRunner().invoke(app, ["models", "verify", str(folder)])
    assert result.exit_code == 1
    assert "NO" in result.stdout


def test_describe_says_what_serving_the_model_means(tmp_path: Path) -> None:
    folder = write_dual_encoder(tmp_path / "my-clip")
    result = CliRunner().invoke(app, ["models", "describe", str(folder)])
    assert result.exit_code == 0, result.output
    lines = dict(
        line.split(maxsplit=1) for line in result.stdout.splitlines() if not line.startswith(("text and", "vect"))
    )
    assert (lines["name"], lines["kind"], lines["dimensions"], lines["image"]) == ("my-clip", "clip", "8", "32 px")
    assert lines["fingerprint"] == Retriever.load(str(folder)).info.fingerprint
    assert "text 0.5, image 0.5" in result.stdout


def test_the_list_names_what_is_bundled_and_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0, result.output
    for words in (
        "bundled:atlas",
        "Downloaded:\n  none (ret2 models pull",
        "hub:google/siglip2-base-patch16-224",
        "Apache-2.0",
        "109 languages",
    ):
        assert words in result.stdout
    assert {model.source for model in BUNDLED_MODELS} == {f"bundled:{name}" for name in BUNDLED}


def test_pull_takes_models_of_the_hub_alone() -> None:
    result = CliRunner().invoke(app, ["models", "pull", "./folder"])
    assert result.exit_code == 1
    assert "is no model of the hub: name it as hub:ORG/NAME" in " ".join(result.stderr.split())
