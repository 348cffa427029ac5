"""A run and its folder: resumed equals uninterrupted, the best checkpoint opens, it stops early, and a strange folder is left alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from needs import needed
from tiny_model import CONFIG, write_tiny_checkpoint

from model.checkpoints.weights import read_tensors
from model.errors import InvalidInput
from model.retriever import Retriever
from model.training import run as training_run
from model.training.data import Data, read_data, settings_for
from model.training.distributed import Ranks
from model.training.pairs import Example
from model.training.run import Outcome, begin, train
from model.training.run_folder import STATE_FILE
from model.training.settings import PairsOptions, RunOptions, TrainSettings
from model.types import Input, Limits, Role

SETTINGS = TrainSettings(
    steps=6, batch_size=8, chunk_size=6, learning_rate=3e-3, eval_every=2, warmup_steps=2, precision="fp32"
)
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture
def file(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    """24 pairs: a colour's picture and a question about it, answered by a text."""
    rows: list[dict[str, Any]] = []
    for colour, thing, words in itertools.product(COLOURS, ("flag", "square"), ("what is the", "the", "a", "is this")):
        (tmp_path / f"{colour}.png").write_bytes(png(colour, size=(20, 16)))
        rows.append(
            {
                "query": {"text": f"{words} {thing}", "image": f"{colour}.png"},
                "document": {"id": f"{colour} {thing}", "text": f"{thing} of {colour}"},
                "negatives": [{"text": f"{thing} of one"}],
            }
        )
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(file: Path, share: float = 0.25) -> Data:
    return read_data(PairsOptions(file, validation_share=share, strict=True), lambda *_: None)[0]


def run(
    start: Path,
    file: Path,
    options: RunOptions,
    settings: TrainSettings = SETTINGS,
    *,
    stop_after: int = 1000,
    said: list[str] | None = None,
    share: float = 0.25,
) -> Outcome:
    data = read(file, share)
    retriever, origin = begin(str(start), None, "mine", settings.seed)
    asked = itertools.count(1)
    return train(
        retriever,
        origin,
        data,
        settings,
        options,
        Ranks(),
        report=lambda *_: None,
        say=([] if said is None else said).append,
        should_stop=lambda: next(asked) >= stop_after,
    )


@pytest.mark.parametrize("train_text", [False, True], ids=["frozen", "text tower trained"])
def test_interrupted_and_resumed_is_the_same_as_uninterrupted(
    train_text: bool, start: Path, file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, train_backbones="text" if train_text else "none")
    whole = run(start, file, RunOptions(tmp_path / "whole"), settings)
    parts = RunOptions(tmp_path / "parts")
    first = run(start, file, parts, settings, stop_after=3)  # between two validations
    assert (first.ending, first.steps) == ("interrupted", 3)
    second = run(start, file, parts, settings, stop_after=2)
    assert (second.ending, second.steps) == ("interrupted", 5)
    last = run(start, file, parts, settings)
    assert (last.ending, last.steps, last.best, last.first) == ("finished", 6, whole.best, whole.first)
    expected, found = (read_tensors(tmp_path / name / STATE_FILE) for name in ("whole", "parts"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_the_folder_opens_as_a_model_and_gives_what_was_validated(
    start: Path, file: Path, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    settings = replace(SETTINGS, train_backbones="both", backbone_learning_rate=1e-2)
    options = RunOptions(tmp_path / "run")
    data, _ = read_data(PairsOptions(file, validation_share=0.25), lambda *_: None)
    retriever, origin = begin(str(start), None, "mine", 17)
    outcome = train(
        retriever, origin, replace(data, validation=[]), settings, options, Ranks(),
        report=lambda *_: None, say=lambda _: None, should_stop=lambda: False,
    )  # fmt: skip
    assert (outcome.best, outcome.ending) == ({}, "finished")  # nothing to choose by: the last one is kept
    opened, before = Retriever.load(str(tmp_path / "run")), Retriever.load(str(start))
    assert opened.config.name == "mine"
    assert opened.config.text.source == opened.config.vision.source == "checkpoint"
    assert opened.info.fingerprint != before.info.fingerprint
    item = Input("what is the flag", png("red", size=(20, 16)))
    vectors = []
    for model in (opened, retriever.eval(), before):
        vectors.append(torch.from_numpy(model.encode([model.prepare(item, Role.QUERY, Limits())])))
    torch.testing.assert_close(vectors[0], vectors[1], atol=5e-3, rtol=0)  # stored as float16
    assert (vectors[0] - vectors[2]).abs().max() > 0.05


def tell(
    monkeypatch: pytest.MonkeyPatch, folder: Path, recalls: list[tuple[float, ...]], losses: list[float]
) -> list[bytes]:
    """Make validation measure these; returns what lies in the folder before each of them, but the first."""
    recall_iterator, loss_iterator = iter(recalls), iter(losses)
    weights: list[bytes] = []

    def recall(*_: object) -> dict[int, float]:
        if (path := folder / "model.safetensors").exists():
            weights.append(path.read_bytes())
        return dict(zip((1, 5, 10), next(recall_iterator), strict=True))

    monkeypatch.setattr(training_run, "hits", recall)
    monkeypatch.setattr(training_run, "validation_loss", lambda *_: next(loss_iterator))
    return weights


def test_the_best_checkpoint_is_kept_and_the_run_stops_early(
    start: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first number of recall counts, then the second, whatever the loss; the checkpoint is the one of step 4."""
    recalls = [(0.2, 0.9, 1.0), (0.2, 0.8, 1.0), (0.2, 1.0, 1.0), (0.1, 1.0, 1.0), (0.2, 0.9, 1.0)]
    weights = tell(monkeypatch, tmp_path / "run", recalls, [1.0, 0.1, 2.0, 0.1, 0.1])
    said: list[str] = []
    outcome = run(start, file, RunOptions(tmp_path / "run", patience=2), replace(SETTINGS, steps=100), said=said)
    assert (outcome.ending, outcome.steps, outcome.best_step, outcome.learnt) == ("stopped early", 8, 4, True)
    assert outcome.best == pytest.approx({1: 0.2, 5: 1.0, 10: 1.0})
    assert outcome.first[5] == pytest.approx(0.9)
    assert ["best so far" in line for line in said if line.startswith("step")] == [True, False, True, False, False]
    first, second, third, fourth = weights
    assert first == second != third == fourth == (tmp_path / "run" / "model.safetensors").read_bytes()
    again = run(start, file, RunOptions(tmp_path / "run", patience=2), replace(SETTINGS, steps=100))
    assert (again.ending, again.steps, again.best, again.best_step) == ("stopped early", 8, outcome.best, 4)


def test_of_equal_recall_the_lower_loss_is_kept_then_the_later_step(
    start: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recall that is 1 from the start on, as of a few easy questions, keeps no later model from being taken."""
    weights = tell(monkeypatch, tmp_path / "run", [(1.0, 1.0, 1.0)] * 5, [0.5, 0.4, 0.6, 0.4, 0.5])
    said: list[str] = []
    outcome = run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, steps=8), said=said)
    assert ["best so far" in line for line in said if line.startswith("step")] == [True, True, False, True, False]
    assert (outcome.best_step, outcome.learnt) == (6, True)
    first, second, third, fourth = weights
    assert first != second == third != fourth == (tmp_path / "run" / "model.safetensors").read_bytes()


def test_a_run_that_only_got_worse_has_learnt_nothing(
    start: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(monkeypatch, tmp_path / "run", [(0.5, 0.5, 0.5)] + [(0.5, 0.5, 0.4)] * 3, [0.5, 0.1, 0.1, 0.1])
    outcome = run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, steps=6))
    assert (outcome.ending, outcome.best_step, outcome.learnt) == ("finished", 0, False)
    again = run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, steps=6))
    assert (again.best_step, again.learnt) == (0, False)


def test_what_validation_cannot_show_is_said_before_the_first_step(
    start: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(monkeypatch, tmp_path / "run", [(1.0, 1.0, 1.0)] * 2, [0.5, 0.4])
    said: list[str] = []
    run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, steps=2), said=said)
    few, before, easy, after = said
    questions = len({example.query for example in read(file).validation})
    assert few.startswith(f"only {questions} different validation questions")
    assert "Give at least 50, by --validation FILE" in few
    assert before.startswith("step 0")
    assert "validation recall@1 is 1.000 before the first step" in easy
    assert after.startswith("step 2")


def test_fifty_different_questions_are_enough_and_repeats_do_not_count(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, warned in ((49, True), (50, False)):
        monkeypatch.undo()
        tell(monkeypatch, tmp_path / str(count), [(0.5, 0.5, 0.5)] * 2, [0.5, 0.4])
        texts = [f"flag {'of ' * (number % count)}" for number in range(60)]
        rows = [{"query": {"text": text}, "document": {"text": f"{text} {n}"}} for n, text in enumerate(texts)]
        file = tmp_path / f"{count}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data, _ = read_data(PairsOptions(file, file), lambda *_: None)
        retriever, origin = begin(str(start), None, "mine", 17)
        said: list[str] = []
        train(
            retriever, origin, data, replace(SETTINGS, steps=2), RunOptions(tmp_path / str(count)), Ranks(),
            report=lambda *_: None, say=said.append, should_stop=lambda: False,
        )  # fmt: skip
        assert any(line.startswith("only") for line in said) is warned


def test_recall_rises_on_pairs_that_can_be_learnt(start: Path, file: Path, tmp_path: Path) -> None:
    outcome = run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, steps=40, eval_every=20))
    assert outcome.first[1] < 0.4
    assert outcome.best[1] > 0.6


def test_scalars_are_in_the_log(start: Path, file: Path, tmp_path: Path) -> None:
    needed("tensorboardX")
    run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, steps=2))
    found = b"".join(path.read_bytes() for path in (tmp_path / "run" / "logs").iterdir())
    for name in (b"train/loss", b"train/gradient_norm", b"train/learning_rate", b"validation/recall_at_1"):
        assert name in found


def test_a_folder_of_something_else_is_left_alone(start: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds another model"):
        run(start, file, RunOptions(start))
    options = RunOptions(tmp_path / "run")
    run(start, file, options, replace(SETTINGS, steps=2))
    with pytest.raises(InvalidInput, match=r"other settings \(learning_rate was 0.003, is 0.1\)"):
        run(start, file, options, replace(SETTINGS, steps=2, learning_rate=0.1))
    with pytest.raises(InvalidInput, match="the pairs differ"):
        run(start, file, options, replace(SETTINGS, steps=2), share=0.4)
    outcome = run(start, file, replace(options, fresh=True), replace(SETTINGS, steps=3))
    assert outcome.steps == 3


def test_a_batch_of_more_pairs_than_there_are_is_refused(start: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"batch_size is 25; it must be from 2 to the number of training pairs, \d+"):
        run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, batch_size=25))


def test_a_share_that_leaves_nothing_is_refused(file: Path) -> None:
    with pytest.raises(InvalidInput, match="give --validation FILE"):
        read_data(PairsOptions(file, validation_share=1e-9), lambda *_: None)
    data, _ = read_data(PairsOptions(file, validation_share=0.0), lambda *_: None)
    assert (len(data.train), len(data.validation)) == (24, 0)
    both, _ = read_data(PairsOptions(file, file), lambda *_: None)
    assert (len(both.train), len(both.validation)) == (24, 24)


def test_settings_suit_the_number_of_pairs() -> None:
    def data(pairs: int, **suited: Any) -> Data:
        return Data([Example(("q", None), ("d", None), "d", "d")] * pairs, [], {}, {}, "", defaults=suited)

    small = settings_for(data(10), {"epochs": 3.0}, fresh=True)
    assert (small.batch_size, small.steps, small.eval_every, small.learning_rate) == (10, 3, 1, 1e-3)
    large = settings_for(data(100_000), {"batch_size": 500, "seed": 3, "epochs": 2.0})
    assert (large.steps, large.warmup_steps, large.eval_every, large.seed) == (400, 40, 100, 3)
    assert large.learning_rate == 3e-4
    assert settings_for(data(640), {}).steps == 100  # ten epochs
    # What the data set says counts where nothing was chosen; epochs count instead of its steps.
    suited = data(640, steps=77, batch_size=32, learning_rate=0.1)
    assert settings_for(suited, {"learning_rate": 0.2}, fresh=True).learning_rate == 0.2
    assert [settings_for(suited, chosen).steps for chosen in ({}, {"epochs": 2.0}, {"steps": 5})] == [77, 40, 5]


def test_patience_is_the_data_sets_own_unless_it_is_given(
    start: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, given, steps in (("endless", None, 8), ("given", 1, 2)):
        monkeypatch.undo()
        tell(monkeypatch, tmp_path / name, [(0.5, 0.5, 0.5)] + [(0.4, 0.5, 0.5)] * 4, [0.5] * 5)
        retriever, origin = begin(str(start), None, "mine", 17)
        outcome = train(
            retriever, origin, replace(read(file), patience=0), replace(SETTINGS, steps=8),
            RunOptions(tmp_path / name, patience=given), Ranks(),
            report=lambda *_: None, say=lambda _: None, should_stop=lambda: False,
        )  # fmt: skip
        assert outcome.steps == steps, name


def test_sides_of_their_own_are_both_trained_and_kept(file: Path, tmp_path: Path) -> None:
    start = write_tiny_checkpoint(tmp_path / "start", replace(CONFIG, shared_sides=False))
    run(start, file, RunOptions(tmp_path / "run"), replace(SETTINGS, steps=2), share=0.0)
    before, after = (read_tensors(tmp_path / name / "model.safetensors") for name in ("start", "run"))
    assert Retriever.load(str(tmp_path / "run")).config.shared_sides is False
    moved = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == {"query", "document"}
