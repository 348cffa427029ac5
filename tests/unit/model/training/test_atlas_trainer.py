from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from model.checkpoints.sources import locate
from model.checkpoints.weights import read_tensors
from model.errors import InvalidInput
from model.evaluation.atlas import Atlas
from model.retriever import Retriever
from model.training.atlas_run import CONFIG, VARIANTS, split_pairs, train_atlas
from model.training.atlas_trainer import (
    Pair,
    StateCache,
    Trainer,
    TrainSettings,
    augment,
    contrastive_loss,
    draw_batch,
    relevance,
    schedule,
)
from model.training.distributed import Ranks
from model.training.run_folder import STATE_FILE, claim
from model.types import Input, Limits, Role

SETTINGS = TrainSettings(
    steps=8, batch_size=8, topics_per_subject=2, warmup_steps=2, augmentations=2, learning_rate=3e-3
)


def pairs() -> list[Pair]:
    return [
        Pair(
            group="cold" if colour == "blue" else "warm",
            subject=colour,
            topic=topic,
            query_text=f"what is the {topic} of this",
            query_text_alone=f"what is the {topic} of {colour}",
            query_images=(f"{colour}/a", f"{colour}/b"),
            document_text=f"{topic} {colour}",
            document_images=(f"{colour}/a", f"{colour}/b"),
        )
        for colour in ("red", "green", "blue")
        for topic in ("capital", "flag", "square")
    ]


def trainer(folder: Path, tiny_folder: Path, png: Callable[..., bytes], settings: TrainSettings = SETTINGS) -> Trainer:
    torch.manual_seed(0)
    retriever = Retriever.load(str(tiny_folder))
    cache = StateCache(retriever)
    texts = [text for pair in pairs() for text in (pair.query_text, pair.query_text_alone, pair.document_text)]
    images = {
        f"{colour}/{hand}": png(colour, size=(20, 10 + 9 * (hand == "b")))
        for colour in ("red", "green", "blue")
        for hand in "ab"
    }
    cache.add_texts(texts, lambda _: None)
    cache.add_images(images, SETTINGS.augmentations, random.Random(0), lambda _: None)
    folder.mkdir(exist_ok=True)
    return Trainer(retriever, cache, pairs(), settings, folder)


def test_training_lowers_the_loss_and_leaves_the_towers_alone(
    tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]
) -> None:
    run = trainer(tmp_path, tiny_folder, png, replace(SETTINGS, keep_both=1.0, steps=60))
    before = [value.clone() for value in run.retriever.text_tower.parameters()]
    losses = [run.step() for _ in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert all(torch.equal(old, new) for old, new in zip(before, run.retriever.text_tower.parameters(), strict=True))


def test_a_resumed_run_equals_one_that_never_stopped(
    tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]
) -> None:
    whole = trainer(tmp_path / "whole", tiny_folder, png)
    expected = [whole.step() for _ in range(6)]
    first = trainer(tmp_path / "parts", tiny_folder, png)
    losses = [first.step() for _ in range(3)]
    first.validated(0.25)
    second = trainer(tmp_path / "parts", tiny_folder, png)
    second.resume()
    assert (second.done, second.best) == (3, 0.25)
    losses += [second.step() for _ in range(3)]
    assert losses == pytest.approx(expected, rel=1e-4)


def test_a_run_of_the_bundled_model_with_other_settings_is_refused(tmp_path: Path) -> None:
    """Before anything is computed, and a run that was only begun counts."""

    def run(settings: TrainSettings, **options: Any) -> None:
        train_atlas(options.pop("config", CONFIG), settings, tmp_path, report=lambda *_: None, **options)

    begun = {"settings": asdict(SETTINGS), "config": CONFIG.to_json(), "start": None}
    assert not claim(tmp_path, begun, Ranks(), fresh=False)
    (tmp_path / STATE_FILE).touch()
    assert claim(tmp_path, begun, Ranks(), fresh=False)
    with pytest.raises(InvalidInput, match=r"other settings \(learning_rate was 0.003, is 0.1; seed was 17, is 18\)"):
        run(replace(SETTINGS, learning_rate=0.1, seed=18), fresh=False)
    with pytest.raises(InvalidInput, match="configuration is another"):
        run(SETTINGS, fresh=False, config=VARIANTS["sum"])
    with pytest.raises(InvalidInput, match="the model that it began with is another"):
        run(SETTINGS, fresh=False, start_from=locate("bundled"))
    assert not claim(tmp_path, begun, Ranks(), fresh=True)
    assert not (
        tmp_path / STATE_FILE
    ).exists()  # what was broken off before its first validation does not go on with an older run


def test_the_best_checkpoint_is_kept_not_the_last(tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]) -> None:
    run = trainer(tmp_path / "run", tiny_folder, png)
    run.step()
    assert run.validated(0.5)
    best = (tmp_path / "run" / "model.safetensors").read_bytes()
    run.step()
    assert not run.validated(0.4)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == best


def test_a_checkpoint_holds_cell_and_adapters_alone(
    tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]
) -> None:
    run = trainer(tmp_path / "run", tiny_folder, png)
    run.step()
    run.validated(1.0)
    saved = read_tensors(tmp_path / "run" / "model.safetensors")
    assert saved.keys() == {f"shared.{key}" for key in run.fusion.state_dict()}


def test_relevance_follows_what_each_side_carries() -> None:
    red_capital, red_flag, _, green_capital = pairs()[:4]
    drawn = [red_capital, red_flag, green_capital]
    both, words, picture = ("t", "i"), ("t", None), (None, "i")
    targets, ignored = relevance(drawn, [both, both, both], [both, both, both])
    assert torch.equal(targets, torch.eye(3))
    assert not ignored.any()
    # A picture alone means its subject: another pair of the subject is neither right nor wrong.
    targets, ignored = relevance(drawn, [picture, both, words], [both, picture, both])
    assert torch.equal(targets, torch.eye(3))
    assert ignored.tolist() == [[False, True, False], [False, False, False], [False, False, False]]


def test_the_same_answer_twice_in_a_batch_is_right_twice() -> None:
    pair = pairs()[0]
    targets, _ = relevance([pair, pair], [("t", "i")] * 2, [("t", "i")] * 2)
    assert torch.equal(targets, torch.full((2, 2), 0.5))


def test_loss_is_the_mean_of_both_directions() -> None:
    batch = draw_batch({"warm": {"x": pairs()[:2]}}, replace(SETTINGS, batch_size=2, keep_both=1.0), random.Random(1))
    queries = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0]]), dim=-1)
    documents = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), dim=-1)
    logits = queries @ documents.T * 10
    expected = -(logits.log_softmax(1).diag().mean() + logits.log_softmax(0).diag().mean()) / 2
    torch.testing.assert_close(contrastive_loss(queries, documents, batch, torch.tensor(10.0).log()), expected)


def test_batches_show_another_drawing_on_the_other_side() -> None:
    batch = draw_batch({"warm": {"x": pairs()[:3]}}, replace(SETTINGS, batch_size=32, keep_both=1.0), random.Random(1))
    assert all(query[1] != document[1] for query, document in zip(batch.queries, batch.documents, strict=True))


def test_a_small_group_is_drawn_as_often_as_a_large_one() -> None:
    many = {f"s{number}": [replace(pairs()[0], subject=f"s{number}", query_text="large")] for number in range(50)}
    batch = draw_batch(
        {"large": many, "small": {"red": pairs()[:1]}},
        replace(SETTINGS, batch_size=400, keep_both=1.0),
        random.Random(1),
    )
    assert 150 < sum(text == "large" for text, _ in batch.queries) < 250


def test_a_run_can_start_from_a_checkpoint(tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]) -> None:
    first = trainer(tmp_path / "first", tiny_folder, png)
    first.step()
    first.validated(1.0)
    second = trainer(tmp_path / "second", tiny_folder, png)
    second.start_from(tmp_path / "first")
    assert second.done == 0
    for old, new in zip(first.fusion.parameters(), second.fusion.parameters(), strict=True):
        torch.testing.assert_close(new, old.half().float())


def test_modality_dropout_reaches_both_sides_and_names_the_subject() -> None:
    batch = draw_batch({"warm": {"x": pairs()[:3]}}, replace(SETTINGS, batch_size=64, keep_both=0.3), random.Random(1))
    for rows in (batch.queries, batch.documents):
        kinds = {(text is not None, image is not None) for text, image in rows}
        assert kinds == {(True, True), (True, False), (False, True)}
    assert all("this" not in text for text, image in batch.queries if text and image is None)


def test_states_come_out_of_the_cache_as_the_towers_gave_them(
    tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]
) -> None:
    """Texts of other lengths in one batch, longer than the longest to a multiple of eight; the plain version of each picture."""
    run = trainer(tmp_path, tiny_folder, png)
    shown = {"red/a": png("red", size=(20, 10)), "blue/b": png("blue", size=(20, 19))}
    rows = [("capital red", "red/a"), ("what is the square of this", "blue/b")]
    prepared = [run.retriever.prepare(Input(text, shown[image]), Role.QUERY, Limits()) for text, image in rows]
    states = run.cache.states(rows, None)
    assert states.text is not None
    assert states.text_mask is not None
    assert states.vision is not None
    short = run.cache.states([("capital red", None)], None).text_mask
    assert short is not None
    assert (short.shape, short.sum()) == ((1, 8), len(prepared[0].tokens))
    layers, mask = run.retriever.text_states([one.tokens for one in prepared])
    for found, expected in zip(states.text, layers, strict=True):
        for row in range(2):
            torch.testing.assert_close(
                found[row, states.text_mask[row]], expected[row, mask[row]], atol=2e-3, rtol=2e-3
            )
    images = run.retriever.vision_states([one.pixels for one in prepared])
    for found, expected in zip(states.vision, images, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_versions_of_a_picture_are_drawn_among_its_own(
    tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]
) -> None:
    cache = trainer(tmp_path, tiny_folder, png).cache
    plain = {key: cache.states([(None, key)], None).vision[-1][0] for key in ("red/a", "red/b", "green/a")}  # type: ignore[index]
    drawn = cache.states([(None, "red/b")] * 40, random.Random(1)).vision[-1]  # type: ignore[index]
    others = {tuple(one.flatten().tolist()) for one in drawn}
    assert len(others) == SETTINGS.augmentations
    assert tuple(plain["red/b"].flatten().tolist()) in others
    assert not {tuple(plain[key].flatten().tolist()) for key in ("red/a", "green/a")} & others


def test_augmentation_changes_the_picture_and_is_repeatable() -> None:
    image = Image.new("RGB", (40, 30), "red")
    once, again = augment(image, random.Random(5)), augment(image, random.Random(5))
    assert once.tobytes() == again.tobytes()
    assert once.size != image.size or once.tobytes() != image.tobytes()


def test_schedule_warms_up_and_decays() -> None:
    settings = TrainSettings(steps=100, warmup_steps=10)
    rates = [schedule(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 <= rates[-1] < 0.06


def test_validation_pairs_are_not_trained_on() -> None:
    trained, validation = split_pairs(Atlas.read())
    assert not {row.id for row in trained} & {row.id for row in validation}
    assert {row.split for row in (*trained, *validation)} == {"train"}
    assert 100 < len(validation) < 0.1 * len(trained)


def test_the_kept_weights_are_the_average_of_the_steps(
    tmp_path: Path, tiny_folder: Path, png: Callable[..., bytes]
) -> None:
    run = trainer(tmp_path, tiny_folder, png, replace(SETTINGS, averaging=0.5))
    expected = run.fusion.cell.latents.detach().clone()
    for step in range(4):
        run.step()
        kept = min(0.5, step / (step + 10))
        expected = kept * expected + (1 - kept) * run.fusion.cell.latents.detach()
    torch.testing.assert_close(run.averaged.cell.latents, expected)
    assert not torch.equal(run.averaged.cell.latents, run.fusion.cell.latents)
    run.validated(1.0)
    kept_weights = read_tensors(tmp_path / "model.safetensors")["shared.cell.latents"].float()
    torch.testing.assert_close(kept_weights, expected, atol=1e-3, rtol=0)
