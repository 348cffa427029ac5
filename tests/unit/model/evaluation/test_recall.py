from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from model.evaluation.atlas import PARTS, Atlas, AtlasQuery
from model.evaluation.recall import (
    Carries,
    Item,
    Question,
    Recall,
    Search,
    corpus,
    exact_search,
    nine,
    questions,
    recall,
)
from model.types import Input


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas.read()


def test_recall_by_rank_and_part() -> None:
    items = [Item(f"d{number}", f"s{number}", Input("x")) for number in range(12)]
    asked = [
        Question("flags", "s0", "d0", Input("x")),
        Question("flags", "s1", "d7", Input("x")),
        Question("emoji", "s9", None, Input("x")),
    ]
    ranked = [f"d{number}" for number in range(10)]
    result = recall(asked, items, lambda inputs: [ranked for _ in inputs])
    assert result["flags"].recalls == (0.5, 0.5, 1.0)
    assert result["flags"].n == 2
    assert result["emoji"].recalls == (0.0, 0.0, 1.0)  # any document of the subject, found at rank 10


def test_exact_search_orders_by_score_and_keeps_ties_in_order() -> None:
    documents = np.eye(3, dtype=np.float32)
    search = exact_search(lambda inputs: np.array([[0.1, 0.9, 0.1]], np.float32), documents, ["a", "b", "c"])
    assert search([Input("x")]) == [["b", "a", "c"]]


def test_what_each_combination_asks_and_searches(atlas: Atlas) -> None:
    for carries in Carries:
        items = corpus(atlas, carries)
        assert len({item.id for item in items}) == len(items)
        assert all((item.content.text is None) == (carries is Carries.IMAGE) for item in items)
        assert all((item.content.image is None) == (carries is Carries.TEXT) for item in items)
    assert len(corpus(atlas, Carries.BOTH)) == len(atlas.documents)
    assert len(corpus(atlas, Carries.IMAGE)) < len(atlas.images)
    both = questions(atlas, Carries.BOTH, Carries.BOTH)
    heldout = {row.positive_id for row in atlas.queries if row.split == "heldout"}
    assert {question.positive for question in both} == heldout
    subjects = [question.subject for question in questions(atlas, Carries.IMAGE, Carries.TEXT)]
    assert len(subjects) == len(set(subjects))
    assert all(question.positive is None for question in questions(atlas, Carries.TEXT, Carries.IMAGE))


def test_nine_combinations_are_measured_each_on_its_corpus(atlas: Atlas) -> None:
    """By a searcher that knows every answer, and by one that is wrong about each second question."""
    rows: dict[tuple[str | None, bytes | None], AtlasQuery] = {}
    for row in atlas.queries:
        if row.split == "heldout":
            picture = atlas.images[row.heldout_image_id]
            rows |= {(row.question, picture): row, (row.question_named, None): row, (None, picture): row}

    def results(wrong_every: int) -> dict[tuple[Carries, Carries], dict[str, Recall]]:
        def searcher(_: Carries, items: list[Item]) -> Search:
            ids = {item.id for item in items}
            some = {item.subject: item.id for item in items}

            def answer(asked: Input) -> str:
                row = rows[asked.text, asked.image]
                return row.positive_id if row.positive_id in ids else some[row.subject]

            return lambda inputs: [
                ["nowhere" if place % wrong_every == 0 else answer(asked)]
                for place, asked in enumerate(inputs, start=1)
            ]

        return nine(atlas, searcher)

    right, half = results(wrong_every=10**9), results(wrong_every=2)
    assert set(right) == set(half) == set(product(Carries, Carries))
    for combination, recalls in right.items():
        assert {part: recall.recalls for part, recall in recalls.items()} == dict.fromkeys(PARTS, (1.0, 1.0, 1.0))
        assert all(0.4 < recall.recalls[0] < 0.6 for recall in half[combination].values())
