from __future__ import annotations

import pytest

from model.evaluation.metrics import mean, pseudo_recall_at, recall_at


def test_recall_is_a_hit_or_not_however_many_are_right() -> None:
    ranked = [["a", "b", "c"], ["a", "b", "c"], ["c", "b", "a"], []]
    positives = [{"b", "c", "x"}, {"x"}, {"c"}, {"a"}]
    assert recall_at(ranked, positives, [1, 2, 3]) == (0.25, 0.5, 0.5)


def test_pseudo_recall_looks_for_any_answer_in_a_text_whatever_its_case() -> None:
    texts = [["The tower is in PARIS.", "x"], ["no", "built 1889"], ["nothing", "at all"]]
    answers = [[" paris "], ["1900", "1889"], ["Rome"]]
    assert pseudo_recall_at(texts, answers, [1, 2]) == (1 / 3, 2 / 3)


@pytest.mark.parametrize("answers", [[], [""], ["  "]])
def test_an_empty_answer_is_not_in_every_text(answers: list[str]) -> None:
    assert pseudo_recall_at([["any text"]], [answers], [1]) == (0.0,)


def test_the_mean_is_of_tasks_and_not_of_queries() -> None:
    assert mean([1.0, 0.0]) == 0.5


def test_recall_of_nothing_is_not_zero() -> None:
    with pytest.raises(ValueError, match="no queries"):
        recall_at([], [], [1])
