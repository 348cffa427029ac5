"""atlas as a data set: what is drawn of it, what is right in a batch, and that validation and test are kept apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image

from model.evaluation.atlas import Atlas, AtlasQuery
from model.training import atlas
from model.training.atlas import AtlasData, VersionedImages, augment, draw, relevance, split_pairs, version_key
from model.training.batch import Batch
from model.training.data import settings_for
from model.training.pairs import Row
from model.training.settings import TrainSettings
from model.types import Role

SETTINGS = TrainSettings(batch_size=32)


def rows(colours: Sequence[str] = ("red", "green", "blue")) -> list[AtlasQuery]:
    return [
        AtlasQuery(
            id=f"q/{colour}/{topic}",
            part="flags",
            subject=colour,
            topic=topic,
            question=f"what is the {topic} of this",
            question_named=f"what is the {topic} of {colour}",
            image_ids=(f"{colour}/a", f"{colour}/b"),
            heldout_image_id=f"{colour}/c",
            positive_id=f"{topic} {colour}",
            split="train",
        )
        for colour in colours
        for topic in ("capital", "flag", "square")
    ]


def drawn(
    parts: dict[str, dict[str, list[AtlasQuery]]], settings: TrainSettings = SETTINGS
) -> tuple[Batch, list[Row], list[Row]]:
    texts = {
        row.positive_id: row.positive_id for subjects in parts.values() for part in subjects.values() for row in part
    }
    batch = draw(parts, texts, settings, random.Random(1))
    queries, documents = ([batch.entries[place].row for place in side] for side in (batch.queries, batch.documents))
    return batch, queries, documents


def test_relevance_follows_what_both_sides_carry() -> None:
    red_capital, red_flag, _, green_capital = rows()[:4]
    chosen = [red_capital, red_flag, green_capital]
    both, words, picture = ("t", "i"), ("t", None), (None, "i")
    right, ignored = relevance(chosen, [both, both, both], [both, both, both])
    assert torch.equal(right, torch.eye(3))
    assert not ignored.any()
    # A picture alone means its subject: another pair of the subject is neither right nor wrong.
    right, ignored = relevance(chosen, [picture, both, words], [both, picture, both])
    assert torch.equal(right, torch.eye(3))
    assert ignored.tolist() == [[False, True, False], [False, False, False], [False, False, False]]


def test_the_same_answer_twice_in_a_batch_is_right_twice() -> None:
    batch, _, _ = drawn({"flags": {"red": rows()[:1]}}, replace(SETTINGS, batch_size=2))
    assert batch.targets.tolist() == batch.document_targets.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_batch_shows_another_drawing_on_the_other_side_in_versions_of_its_own() -> None:
    batch, queries, documents = drawn({"flags": {"red": rows()[:3]}})
    images = [[str(image).partition("#") for _, image in side] for side in (queries, documents)]
    assert all(query[0] != document[0] for query, document in zip(*images, strict=True))
    assert {image[2] for side in images for image in side} == {"", "1", "2", "3"}
    assert {entry.role for entry in batch.entries} == set(Role)


def test_a_small_part_is_drawn_as_often_as_its_share_says() -> None:
    many = {f"s{number}": [replace(rows()[0], subject=f"s{number}", question="large")] for number in range(50)}
    _, queries, _ = drawn({"emoji": many, "flags": {"red": rows()[:1]}}, replace(SETTINGS, batch_size=600))
    assert 150 < sum(text == "large" for text, _ in queries) < 250  # a third


def test_modality_dropout_reaches_both_sides_and_names_the_subject() -> None:
    _, queries, documents = drawn({"flags": {"red": rows()[:3]}}, replace(SETTINGS, batch_size=64, keep_both=0.3))
    for side in (queries, documents):
        kinds = {(text is not None, image is not None) for text, image in side}
        assert kinds == {(True, True), (True, False), (False, True)}
    assert all("this" not in text for text, image in queries if text and image is None)


def test_augmentation_changes_the_picture_and_is_repeatable() -> None:
    image = Image.new("RGB", (40, 30), "red")
    once, again = augment(image, random.Random(5)), augment(image, random.Random(5))
    assert once.tobytes() == again.tobytes()
    assert once.size != image.size or once.tobytes() != image.tobytes()


def test_versions_of_a_picture_are_its_own_and_always_the_same(png: Callable[..., bytes]) -> None:
    plain = {"red": png("red", size=(40, 30)), "blue": png("blue", size=(40, 30))}
    images = VersionedImages(plain)
    assert len(images) == len(list(images)) == 2 * atlas.VERSIONS
    assert images["red"] == plain["red"]
    versions = {key: images[key] for key in images}
    assert len(set(versions.values())) == len(versions)
    assert VersionedImages(plain)[version_key("red", 2)] == versions["red#2"]


def test_the_data_set_keeps_validation_and_test_out_of_training() -> None:
    whole = Atlas.read()
    trained, validation = split_pairs(whole)
    assert not {row.id for row in trained} & {row.id for row in validation}
    assert {row.split for row in (*trained, *validation)} == {"train"}
    assert 100 < len(validation) < 0.1 * len(trained)
    data = AtlasData.read()
    settings = settings_for(data, {}, fresh=True)
    assert (settings.steps, settings.batch_size, settings.learning_rate, data.patience) == (3000, 160, 1e-3, 0)
    # Every training document is searched, and every question's own is among them.
    pool = data.pool(settings)
    assert pool.keys() == {document.id for document in whole.documents if document.split == "train"}
    assert all(example.label in data.labels[example.key] and example.key in pool for example in data.validation)
    # All that a step draws is cached, and nothing of the test is.
    cached = set(data.rows())
    texts, images = {text for text, _ in cached}, {image for _, image in cached}
    for step in range(3):
        for entry in data.batches(settings)(step).entries:
            assert entry.row[0] in texts
            assert entry.row[1] in images
    assert not images & {row.heldout_image_id for row in whole.queries}
    assert not texts & {document.text for document in whole.documents if document.split == "heldout"}


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    data = AtlasData.read()
    settings = settings_for(data, {"batch_size": 4})
    first, again = (data.batches(settings)(7).entries for _ in range(2))
    assert first == again
    assert first != data.batches(settings)(8).entries
    assert first != data.batches(replace(settings, seed=18))(7).entries


@pytest.mark.parametrize("variant", atlas.VARIANTS)
def test_every_variant_taps_the_last_block_of_both_towers(variant: str) -> None:
    config = atlas.VARIANTS[variant]
    assert (config.text.layers[-1], config.vision.layers[-1], config.name) == (5, 15, variant)
