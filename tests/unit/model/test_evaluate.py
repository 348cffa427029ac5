from __future__ import annotations

import numpy as np
import pytest

from model.atlas import Atlas
from model.evaluate import Carries, Item, Question, corpus, exact_search, nine, questions, recall
from model.inputs import Input


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
    assert result["flags"].at == (0.5, 0.5, 1.0)
    assert result["flags"].n == 2
    assert result["emoji"].at == (0.0, 0.0, 1.0)  # any document of the subject, found at rank 10


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
    def perfect(carries: Carries, items: list[Item]):
        by_content = {(item.content.text, item.content.image): item.id for item in items}
        return lambda inputs: [[next(iter(by_content.values()))] for _ in inputs]

    results = nine(atlas, perfect)
    assert set(results) == {(query, document) for query in Carries for document in Carries}
    assert all(set(recalls) == {"flags", "emoji"} for recalls in results.values())
