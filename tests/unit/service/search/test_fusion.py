"""Two rankings made one, by hand."""

from __future__ import annotations

import pytest

from service.search.fusion import Fused, reciprocal_ranks, weighted

NEAR = [("a", 0.9), ("b", 0.7), ("c", 0.5)]
WORDS = [("c", 8.0), ("d", 4.0)]


def test_reciprocal_ranks() -> None:
    fused = reciprocal_ranks(NEAR, WORDS, 60)
    assert [(one.point_id, one.words) for one in fused] == [("c", 8.0), ("a", None), ("b", None), ("d", 4.0)]
    scores = [1 / 63 + 1 / 61, 1 / 61, 1 / 62, 1 / 62]  # b and d are equal: by id
    assert [one.score for one in fused] == pytest.approx(scores)
    assert [one.share for one in fused] == pytest.approx([(1 / 61) / scores[0], 0, 0, 1])


def test_weighted() -> None:
    fused = {one.point_id: one for one in weighted(NEAR, WORDS, 0.25)}
    assert {name: one.score for name, one in fused.items()} == pytest.approx(
        {"a": 0.75, "b": 0.375, "c": 0.25, "d": 0.125}
    )
    assert {name: one.share for name, one in fused.items()} == pytest.approx({"a": 0, "b": 0, "c": 1, "d": 1})


def test_the_weight_s_ends_are_one_ranking_alone() -> None:
    assert [one.point_id for one in weighted(NEAR, WORDS, 0.0)][:2] == ["a", "b"]
    assert [one.point_id for one in weighted(NEAR, WORDS, 1.0)][:2] == ["c", "d"]
    assert [one.share for one in weighted(NEAR, WORDS, 0.0)] == [0] * 4


@pytest.mark.parametrize("fuse", [lambda e, w: reciprocal_ranks(e, w, 60), lambda e, w: weighted(e, w, 0.5)])
def test_one_side_may_be_empty(fuse) -> None:  # type: ignore[no-untyped-def]
    assert fuse([], []) == []
    assert [one.point_id for one in fuse(NEAR, [])] == ["a", "b", "c"]
    assert [one.point_id for one in fuse([], WORDS)] == ["c", "d"]
    (lone,) = fuse([], [("x", 3.0)])
    assert isinstance(lone, Fused)
    assert (lone.words, lone.share) == (3.0, 1.0)
    assert fuse([("x", -0.2)], [])[0].score > 0  # the only one is the best one
