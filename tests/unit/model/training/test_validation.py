"""Recall and loss of queries over documents."""

from __future__ import annotations

import pytest
import torch

from model.training.validation import hits, validation_loss


def test_recall_counts_any_document_with_the_label() -> None:
    documents = torch.eye(12)
    answers = [{f"l{number}"} for number in range(12)]
    queries = torch.stack([documents[0], documents[1] + 0.5 * documents[2], documents[3], torch.arange(12.0)])
    found = hits(queries, documents, ["l0", "l2", "nothing", "l0"], answers)
    assert found == {1: 0.25, 5: 0.5, 10: 0.5}


def test_validation_loss_is_what_right_answers_lack_of_the_softmax() -> None:
    documents = torch.eye(3)
    answers = [{"a"}, {"b", "a"}, {"c"}]
    loss = validation_loss(documents[:1], documents, ["a"], answers)
    weights = torch.tensor([20.0, 0.0, 0.0]).softmax(0)
    assert loss == pytest.approx(-float((weights[0] + weights[1]).log()), abs=1e-6)
    assert validation_loss(documents[2:], documents, ["a"], answers) > 19
