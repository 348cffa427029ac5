"""`ret2 train` as a shell sees it: a run on a user's pairs from the file to a folder that opens, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dual_encoders import write_dual_encoder
from tiny_model import write_tiny_checkpoint
from typer.testing import CliRunner, Result

from model.config import Ret2Config
from model.retriever import Retriever
from model.training import atlas_run, finetune_run
from model.training.atlas_trainer import TrainSettings
from service.cli import train
from service.cli.main import app

HALF = ("--validation-share", "0.3")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    words = ("red", "green", "blue", "one", "two", "capital", "flag", "country")
    rows = [{"query": {"text": f"what is {word}"}, "document": {"text": f"the {word} of this"}} for word in words]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def words(text: str) -> str:
    return " ".join(text.split())


def test_pairs_become_a_folder_that_opens(file: Path, start: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text() + '{"query": {}, "document": {"text": "x"}}\n')
    arguments = ("--data", file, "--start-from", start, "--output", tmp_path / "run", "--steps", 4, "--batch-size", 4)
    arguments = (*arguments, "--eval-every", 2, "--validation", file, "--device", "cpu", "--precision", "fp32")
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    said = words(result.stdout)
    assert "left out: mine.jsonl line 9: query has neither text nor image" in said
    assert "2 bad rows left out; 16 pairs remain" in said
    assert "4 steps of 4 pairs in fp32 on 1 x cpu" in said
    assert "step 4: validation recall @1" in said
    assert f"Try it: ret2 serve --model {tmp_path / 'run'}" in said
    assert Retriever.load(str(tmp_path / "run")).config.name == "run"
    assert "goes on at step 4 of 4" in words(invoke(*arguments).stdout)
    strict = invoke(*arguments, "--strict")
    assert strict.exit_code == 1
    assert "mine.jsonl line 9" in strict.stderr


def test_a_run_that_learnt_nothing_says_so_and_exits_with_3(
    file: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.4, 0.3])
    monkeypatch.setattr(finetune_run, "hits", lambda *_: dict.fromkeys((1, 5, 10), next(shares)))
    arguments = ("--data", file, "--start-from", start, "--output", tmp_path / "run", "--steps", 4, "--batch-size", 4)
    arguments = (*arguments, "--eval-every", 2, "--validation", file, "--device", "cpu", "--precision", "fp32")
    for _ in range(2):  # the run, and the same command on what it left
        result = invoke(*arguments)
        said = words(result.stdout)
        assert result.exit_code == 3, result.output
        assert "The best checkpoint is that of step 0: nothing was learnt." in said
        assert f"{tmp_path / 'run'} holds the model that the run began with" in said
        assert "Try it" not in said
    before, after = Retriever.load(str(start)), Retriever.load(str(tmp_path / "run"))
    for name, value in before.sides.state_dict().items():
        assert torch.equal(value.half(), after.sides.state_dict()[name].half())


def test_a_dual_encoder_has_no_cell_to_train(file: Path, tmp_path: Path) -> None:
    result = invoke("--data", file, "--start-from", write_dual_encoder(tmp_path / "clip"), *HALF)
    assert result.exit_code == 1
    assert "clip has no recurrent cell" in words(result.stderr)
    assert "ret2 train --backbone" in words(result.stderr)


def test_a_signal_ends_the_run_after_its_step_and_the_command_goes_on(
    file: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    report = train._Bar.report

    def interrupting(self: train._Bar, stage: str, done: int, of: int) -> None:
        report(self, stage, done, of)
        if (stage, done) == ("train", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train._Bar, "report", interrupting)
    arguments = ("--data", file, "--start-from", start, "--output", tmp_path / "run", "--steps", 3, "--batch-size", 4)
    result = invoke(*arguments, "--validation-share", 0, "--device", "cpu")
    assert "interrupted after 2 steps; the same command goes on" in words(result.stdout)
    assert signal.getsignal(signal.SIGTERM) is before
    result = invoke(*arguments, "--validation-share", 0, "--device", "cpu")
    assert "goes on at step 2 of 3" in words(result.stdout)
    assert "finished after 3 steps" in words(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backbone", "folder:x"), "--backbone: only with --data"),
        (("--patience", "5", "--device", "cpu", "--precision", "auto"), "--patience, --device, --precision: only with --data"),
        (("--data", "FILE", "--variant", "sum"), "--variant: only without --data"),
        (("--data", "FILE", "--backbone", "folder:x", "--start-from", "bundled"), "--start-from and --backbone exclude"),
        (("--data", "FILE", "--text-backbone", "folder:x"), "--vision-backbone is not given"),
        (("--data", "FILE", "--backbone", "folder:x", "--text-layers", "1,b", *HALF), "--text-layers is '1,b'"),
        (("--data", "FILE", "--start-from", "START", "--precision", "fp16", "--device", "cpu", *HALF), "fp16 needs CUDA"),
        (("--data", "FILE", "--start-from", "START", "--device", "nonsense"), "device is 'nonsense'"),
        (("--data", "FILE", "--start-from", "START", "--batch-size", "99", *HALF), "batch_size is 99"),
        (("--variant", "nonsense"), "known are ret2-atlas, last-layer, sum"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(
    arguments: tuple[str, ...], message: str, file: Path, start: Path, tmp_path: Path
) -> None:
    given = [{"FILE": str(file), "START": str(start)}.get(one, one) for one in arguments]
    result = invoke(*given, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert message in words(result.stderr)


def test_without_pairs_the_settings_reach_the_run_of_the_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, Any] = {}

    def run(config: Ret2Config, settings: TrainSettings, folder: Path, **rest: Any) -> atlas_run.Outcome:
        begun.update(name=config.name, settings=settings, folder=folder, **rest)
        return atlas_run.Outcome(settings.steps, 0.5, folder)

    shapes: list[int] = []
    monkeypatch.setattr(train, "keep_prepared", shapes.append)
    monkeypatch.setattr(atlas_run, "train_atlas", run)
    options = ("--eval-every", 7, "--temperature", 0.2, "--keep-both", 0.9, "--weight-decay", 0.1, "--warmup-steps", 3)
    result = invoke("--variant", "last-layer", *options)
    assert result.exit_code == 0, result.output
    assert (begun["name"], begun["folder"], begun["fresh"]) == ("last-layer", Path("runs/last-layer"), False)
    changed = {"eval_every": 7, "temperature": 0.2, "keep_both": 0.9, "weight_decay": 0.1, "warmup_steps": 3}
    assert begun["settings"] == replace(atlas_run.SETTINGS, **changed)
    assert shapes == [1024]  # or most products of a step would be prepared anew


def test_every_option_says_what_it_is() -> None:
    command = next(one for one in app.registered_commands if one.callback is train.train)
    assert command.callback is not None
    hints = train.train.__annotations__
    assert len(hints) > 30
    assert all("help=" in str(hint) for name, hint in hints.items() if name not in ("context", "return"))


def test_options_that_the_docs_name_are_there() -> None:
    named = set(re.findall(r"--[a-z][a-z-]+", (Path(__file__).parents[4] / "docs" / "training.md").read_text()))
    foreign = {"--model", "--nproc-per-node", "--logdir"}  # of ret2 serve, torchrun, tensorboard
    known = {f"--{name.replace('_', '-')}" for name in train.train.__annotations__}
    assert named - foreign <= known
    assert len(named & known) > 15
