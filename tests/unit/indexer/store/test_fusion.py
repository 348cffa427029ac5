"""Two rankings made one, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from indexer.store.base import SearchWindow
from indexer.store.criteria import Hybrid, Nearest, Place, ReciprocalRanks, WeightedScores, WordMatch
from indexer.store.fusion import fuse

NEAR = [("a", 0.9), ("b", 0.7), ("c", 0.5)]
WORDS = [("c", 8.0), ("d", 4.0)]
RANKS = Hybrid(Nearest(np.ones(2, np.float32)), WordMatch("x"), ReciprocalRanks(60), 1_000)
WHOLE = SearchWindow(10)


def weighted(weight: float) -> Hybrid:
    return replace(RANKS, fusion=WeightedScores(weight))


def test_reciprocal_ranks() -> None:
    fused = fuse(RANKS, NEAR, WORDS, WHOLE)
    assert [(place.point_id, place.words) for place in fused] == [("c", 8.0), ("a", None), ("b", None), ("d", 4.0)]
    scores = [1 / 63 + 1 / 61, 1 / 61, 1 / 62, 1 / 62]  # b and d are equal: by id
    assert [place.score for place in fused] == pytest.approx(scores)
    assert [place.share for place in fused] == pytest.approx([(1 / 61) / scores[0], 0, 0, 1])


def test_weighted() -> None:
    fused = {place.point_id: place for place in fuse(weighted(0.25), NEAR, WORDS, WHOLE)}
    assert {name: place.score for name, place in fused.items()} == pytest.approx(
        {"a": 0.75, "b": 0.375, "c": 0.25, "d": 0.125}
    )
    assert {name: place.share for name, place in fused.items()} == pytest.approx({"a": 0, "b": 0, "c": 1, "d": 1})


def test_the_weight_s_ends_are_one_ranking_alone() -> None:
    assert [place.point_id for place in fuse(weighted(0.0), NEAR, WORDS, WHOLE)][:2] == ["a", "b"]
    assert [place.point_id for place in fuse(weighted(1.0), NEAR, WORDS, WHOLE)][:2] == ["c", "d"]
    assert [place.share for place in fuse(weighted(0.0), NEAR, WORDS, WHOLE)] == [0] * 4


@pytest.mark.parametrize("hybrid", [RANKS, weighted(0.5)])
def test_windows_are_parts_of_the_whole(hybrid: Hybrid) -> None:
    whole = fuse(hybrid, NEAR, WORDS, WHOLE)
    for offset in range(5):
        for limit in range(5):
            assert fuse(hybrid, NEAR, WORDS, SearchWindow(limit, offset)) == whole[offset : offset + limit]
    least = whole[1].score
    assert fuse(hybrid, NEAR, WORDS, SearchWindow(3, 1, score_threshold=least)) == whole[1:2]


@pytest.mark.parametrize("hybrid", [RANKS, weighted(0.5)])
def test_one_side_may_be_empty(hybrid: Hybrid) -> None:
    assert fuse(hybrid, [], [], WHOLE) == []
    assert [place.point_id for place in fuse(hybrid, NEAR, [], WHOLE)] == ["a", "b", "c"]
    assert [place.point_id for place in fuse(hybrid, [], WORDS, WHOLE)] == ["c", "d"]
    (lone,) = fuse(hybrid, [], [("x", 3.0)], WHOLE)
    assert isinstance(lone, Place)
    assert (lone.words, lone.share) == (3.0, 1.0)
    assert fuse(hybrid, [("x", -0.2)], [], WHOLE)[0].score > 0  # the only one is the best one
