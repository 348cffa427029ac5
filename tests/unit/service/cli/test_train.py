"""`ret2 train` as a shell sees it: a run on a user's pairs from the file to a folder that opens, and what it says when it cannot."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from dual_encoders import write_dual_encoder
from tiny_model import write_tiny_checkpoint
from typer.testing import CliRunner, Result

from model.errors import InvalidInput
from model.retriever import Retriever
from model.training import run
from model.training.atlas import DEFAULTS, AtlasData
from model.training.settings import PairsOptions, RunOptions, StartOptions, TrainSettings
from service.cli import train
from service.cli.main import app
from service.encoder.sources import read_sources
from service.settings import Settings

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
    monkeypatch.setattr(run, "hits", lambda *_: dict.fromkeys((1, 5, 10), next(shares)))
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


def test_a_run_on_a_dual_encoder_says_what_it_is_and_opens(file: Path, tmp_path: Path) -> None:
    clip = write_dual_encoder(tmp_path / "clip")
    arguments = ("--data", file, "--start-from", clip, "--output", tmp_path / "run", "--steps", 2, "--batch-size", 4)
    cell = ("--hidden-size", 16, "--num-heads", 2, "--text-layers", "0,2", "--vision-layers", "1,2")
    result = invoke(*arguments, *cell, "--validation-share", 0, "--device", "cpu")
    assert result.exit_code == 0, result.output
    opened = Retriever.load(str(tmp_path / "run"))
    config = opened.ret2_config
    assert (config.global_features, config.hidden_size, config.text.layers) == ("base", 16, (0, 2))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["learning_rate"] == 1e-3  # its cell is fresh
    more = invoke("--data", file, "--start-from", tmp_path / "run", "--output", tmp_path / "more", "--steps", 1, *HALF)
    assert more.exit_code in (0, 3), more.output
    refused = invoke(*arguments, "--validation-share", 0, "--fresh", "--train-backbones", "both")
    assert "leave out --train-backbones" in words(refused.stderr)


def test_global_features_are_added_where_they_are_asked_for(file: Path, start: Path, tmp_path: Path) -> None:
    arguments = ("--data", file, "--start-from", start, "--steps", 1, "--validation-share", 0)
    for given, expected in (((), None), (("--global-features",), "added")):
        folder = tmp_path / str(len(given))
        assert invoke(*arguments, *given, "--output", folder).exit_code == 0
        assert Retriever.load(str(folder)).ret2_config.global_features == expected


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
        (("--images", "x", "--strict", "--num-heads", "4"), "--images, --strict, --num-heads: only with --data"),
        (("--data", "FILE", "--variant", "sum"), "--variant: only without --data"),
        (("--data", "FILE", "--backbone", "folder:x", "--start-from", "bundled"), "--start-from and --backbone exclude"),
        (("--data", "FILE", "--text-backbone", "folder:x"), "--vision-backbone is not given"),
        (("--data", "FILE", "--backbone", "folder:x", "--text-layers", "1,b", *HALF), "--text-layers is '1,b'"),
        (("--data", "FILE", "--start-from", "START", "--precision", "fp16", "--device", "cpu", *HALF), "fp16 needs CUDA"),
        (("--data", "FILE", "--start-from", "START", "--device", "nonsense"), "device is 'nonsense'"),
        (("--data", "FILE", "--start-from", "START", "--batch-size", "99", *HALF), "batch_size is 99"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(
    arguments: tuple[str, ...], message: str, file: Path, start: Path, tmp_path: Path
) -> None:
    given = [{"FILE": str(file), "START": str(start)}.get(one, one) for one in arguments]
    result = invoke(*given, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert message in words(result.stderr)


def test_own_pairs_start_from_the_model_that_a_service_answers_with(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[str] = []

    def begin(source: str, *_: Any, **__: Any) -> Any:
        sources.append(source)
        raise InvalidInput("far enough")

    monkeypatch.setattr(run, "begin", begin)
    invoke("--data", file, "--output", tmp_path / "run", "--validation-share", 0)
    assert sources == [read_sources(Settings().models)[0].source]


def test_the_bundled_model_s_parts_learn_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart: dict[str, bool] = {}

    def train_model(retriever: Retriever, _: Any, __: Any, settings: TrainSettings, *___: Any, **____: Any) -> Any:
        apart[retriever.config.name] = settings.apart
        return run.Outcome(settings.steps, "finished", {}, {}, settings.steps, tmp_path)

    monkeypatch.setattr(run, "train", train_model)
    for variant in ("ret2-atlas", "cell"):
        assert invoke("--variant", variant, "--device", "cpu").exit_code == 0
    assert apart == {"ret2-atlas": True, "cell": False}


def test_without_pairs_the_settings_reach_the_run_of_the_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, Any] = {}

    def train_model(
        retriever: Retriever, origin: Path | None, data: Any, settings: Any, options: Any, *_: Any, **__: Any
    ) -> Any:
        begun.update(name=retriever.config.name, origin=origin, data=data, settings=settings, options=options)
        return run.Outcome(settings.steps, "finished", {1: 0.1}, {1: 0.5}, settings.steps, options.output)

    monkeypatch.setattr(run, "train", train_model)
    chosen = {
        "eval_every": 7,
        "temperature": 0.2,
        "keep_both": 0.9,
        "weight_decay": 0.1,
        "warmup_steps": 3,
        "averaging": 0.5,
    }
    options = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = invoke("--variant", "last-layer", *options, "--precision", "fp32", "--patience", 4, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (begun["name"], begun["origin"]) == ("last-layer", None)
    assert begun["options"] == RunOptions(Path("runs/last-layer"), patience=4, device="cpu")
    assert isinstance(begun["data"], AtlasData)
    assert begun["settings"] == TrainSettings(**(DEFAULTS | chosen | {"precision": "fp32"}))  # type: ignore[arg-type]


def test_a_variant_that_is_not_known_is_refused_with_those_that_are() -> None:
    result = invoke("--variant", "nonsense")
    assert result.exit_code == 2
    assert "'ret2-atlas', 'cell', 'last-layer', 'sum'" in words(result.stderr).replace("│ ", "")


def option_names() -> set[str]:
    panels = (PairsOptions, StartOptions, TrainSettings, RunOptions)
    return {f"--{name.replace('_', '-')}" for panel in panels for name in get_type_hints(panel)}


def test_every_setting_is_an_option_that_says_what_it_is() -> None:
    output = invoke("--help").stdout
    command = next(command for command in app.registered_commands if command.callback is train.train)
    assert command.callback is not None
    parameters = inspect.signature(command.callback).parameters.values()
    assert {f"--{parameter.name.replace('_', '-')}" for parameter in parameters} == option_names()
    assert len(option_names()) > 35
    assert all(get_args(parameter.annotation)[1].help for parameter in parameters)
    for panel in train._PANELS:
        assert panel in output


def test_options_that_the_docs_name_are_there() -> None:
    named = set(re.findall(r"--[a-z][a-z-]+", (Path(__file__).parents[4] / "docs" / "training.md").read_text()))
    foreign = {"--model", "--nproc-per-node", "--logdir"}  # of ret2 serve, torchrun, tensorboard
    assert named - foreign <= option_names()
    assert len(named & option_names()) > 15
