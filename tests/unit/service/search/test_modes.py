"""What a mode asks of the store."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from indexer.domain.points import Hit
from indexer.store.base import SearchWindow
from indexer.store.criteria import Criterion, Hybrid, LateInteraction, ReciprocalRanks, WeightedScores, WordMatch
from service.schemas.search import WeightedIn
from service.search.modes import RankedSearch, RankingMode


class Asked:
    """The points of an empty collection; `by` has what was ranked by, `windows` what was read of it."""

    def __init__(self) -> None:
        self.by: list[Criterion] = []
        self.windows: list[SearchWindow] = []

    async def search(self, by: Criterion, window: SearchWindow) -> list[Hit]:
        self.by.append(by)
        self.windows.append(window)
        return []


@pytest.mark.parametrize("mode", ["fused", "hybrid"])
async def test_the_candidates_of_reranking_are_the_same_on_every_page(mode: str) -> None:
    asked, vector = Asked(), np.ones(4, np.float32)
    search = RankedSearch(cast("Any", asked), RankingMode(mode, oversampling=4.0), vector, np.ones((2, 4), np.float32))
    for offset, limit in ((0, 10), (95, 50), (900, 1_000)):
        await search.window(offset, limit)
    late = [by.embedding if isinstance(by, Hybrid) else by for by in asked.by]
    assert [by.candidates for by in late if isinstance(by, LateInteraction)] == [400, 400, 400]
    assert {by.candidates for by in asked.by if isinstance(by, Hybrid)} <= {200}


@pytest.mark.parametrize("mode", ["fused", "lexical", "hybrid"])
async def test_one_call_of_the_store_reads_the_page_alone_and_no_vectors(mode: str) -> None:
    asked = Asked()
    search = RankedSearch(cast("Any", asked), RankingMode(mode), np.ones(4, np.float32), None, "red")
    await search.window(20, 10)
    await replace(search, options=SearchWindow(0, with_vector=True)).window(0, 5)
    read = [(window.offset, window.limit, window.with_vector) for window in asked.windows]
    assert read == [(20, 10, False), (0, 5, True)]


@pytest.mark.parametrize(
    ("fusion", "text", "criterion"),
    [
        (None, "red", (WordMatch("red"), ReciprocalRanks(60), 200)),
        (WeightedIn(method="weighted", weight=0.3, candidates=50), None, (WordMatch(""), WeightedScores(0.3), 50)),
    ],
)
async def test_hybrid_is_one_criterion(fusion: Any, text: str | None, criterion: tuple[Any, ...]) -> None:
    asked = Asked()
    await RankedSearch(cast("Any", asked), RankingMode("hybrid", fusion), np.ones(4, np.float32), None, text).window(
        0, 3
    )
    (by,) = asked.by
    assert isinstance(by, Hybrid)
    assert (by.words, by.fusion, by.candidates) == criterion
