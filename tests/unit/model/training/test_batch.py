"""What a batch of pairs holds: labels decide what is right, everything is embedded once, epochs have every pair."""

from __future__ import annotations

import random

import pytest

from model.training.batch import Order, draw, relevance
from model.training.pairs import Example, Images, Pairs


def test_a_label_makes_several_documents_right() -> None:
    labels = {"d1": {"x"}, "d2": {"x", "y"}, "d3": {"z"}}
    right = relevance(["x", "y", "x"], ["d1", "d2", "d3", "unknown"], labels)
    assert right.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]


def test_a_batch_has_soft_targets_and_hard_negatives() -> None:
    negative = ("other", ("a negative", None))
    first = Example(("q1", None), ("d1", None), "d1", "x", (negative,))
    second = Example(("q2", None), ("d2", None), "d2", "x")
    third = Example(("q3", None), ("d3", None), "d3", "d3", (("d1", ("d1", None)),))
    labels = Pairs([first, second, third], Images()).labels()
    batch = draw([first, second, third], labels, negatives=1, keep_both=1.0, rng=random.Random(0))
    rows = [batch.entries[place].row[0] for place in batch.documents]
    assert rows == ["d1", "d2", "d3", "a negative"]  # d1, a negative of the third pair, is there already
    # Both documents of the label are right.
    assert batch.targets.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0]]
    assert batch.document_targets.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    without = draw([first], labels, negatives=0, keep_both=1.0, rng=random.Random(0))
    assert (len(without.entries), len(without.documents)) == (2, 1)


def test_a_document_of_two_labels_answers_both_but_its_labels_are_not_one() -> None:
    first, second, third = (
        Example((f"q{number}", None), (key, None), key, label)
        for number, (key, label) in enumerate([("d1", "x"), ("d1", "y"), ("d3", "x")])
    )
    labels = Pairs([first, second, third], Images()).labels()
    batch = draw([first, second, third], labels, negatives=0, keep_both=1.0, rng=random.Random(0))
    third_each = pytest.approx([1 / 3] * 3)
    assert batch.targets.tolist() == [third_each, [0.5, 0.5, 0], third_each]
    assert batch.document_targets.tolist() == [third_each, third_each, [0.5, 0, 0.5]]


def test_what_stands_twice_in_a_batch_is_embedded_once() -> None:
    one = Example(("q", None), ("d", None), "d", "d")
    batch = draw([one, one], {"d": {"d"}}, negatives=0, keep_both=1.0, rng=random.Random(0))
    assert len(batch.entries) == 2
    assert batch.queries.tolist() in ([0, 0], [1, 1])
    assert batch.targets.tolist() == [[0.5, 0.5]] * 2


def test_inputs_of_both_kinds_lose_one_of_them_as_often_as_asked() -> None:
    example = Example(("q", "i"), ("d", None), "d", "d")
    kinds = {
        draw([example], {"d": {"d"}}, negatives=0, keep_both=0.5, rng=random.Random(seed)).entries[-1].row
        for seed in range(30)
    }
    assert kinds == {("q", "i"), ("q", None), (None, "i")}


def test_an_epoch_has_every_pair_once_in_an_order_of_its_own() -> None:
    order = Order(10, 4, seed=1)
    stream = [place for step in range(5) for place in order.places(step)]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert Order(10, 4, seed=1).places(3) == stream[12:16]  # a resumed run asks for a later step first
