"""What a mode asks of the store."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from indexer.domain.points import Hit
from indexer.errors import CollectionDamaged
from indexer.store.base import Consistency, SearchWindow
from indexer.store.criteria import Criterion, LateInteraction, Ranked
from model.errors import NotFound
from service.search.modes import RankedSearch, RankingMode


class Asked:
    """The points of an empty collection; `by` has what was ranked by."""

    def __init__(self) -> None:
        self.by: list[Criterion] = []

    async def rank(self, by: Criterion, window: SearchWindow) -> Ranked:
        self.by.append(by)
        return []

    async def hits(self, ranked: Ranked, *, with_vector: bool, consistency: Consistency) -> list[Hit]:
        return []


@pytest.mark.parametrize("mode", ["fused", "hybrid"])
async def test_the_candidates_of_reranking_are_the_same_on_every_page(mode: str) -> None:
    asked, vector = Asked(), np.ones(4, np.float32)
    search = RankedSearch(cast("Any", asked), RankingMode(mode, oversampling=4.0), vector, np.ones((2, 4), np.float32))
    for offset, limit in ((0, 10), (95, 50), (900, 1_000)):
        await search.window(offset, limit)
    assert [by.candidates for by in asked.by if isinstance(by, LateInteraction)] == [400, 400, 400]


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
async def test_hits_are_read_for_the_page_alone_and_without_vectors(mode: str) -> None:
    class Recorded(Asked):
        async def rank(self, by: Criterion, window: SearchWindow) -> Ranked:
            return [(f"p{number:04}", 1.0 - number / 1_000) for number in range(500)]

        async def hits(self, ranked: Ranked, *, with_vector: bool, consistency: Consistency) -> list[Hit]:
            reads.append((len(ranked), with_vector))
            return []

    reads: list[tuple[int, bool]] = []
    search = RankedSearch(cast("Any", Recorded()), RankingMode(mode), np.ones(4, np.float32), None, "red")
    await search.window(20, 10)
    await replace(search, options=SearchWindow(0, with_vector=True)).window(0, 5)
    assert reads == [(10, False), (5, True)]


async def test_an_index_that_is_gone_is_no_unknown_collection() -> None:
    class Gone(Asked):
        async def search(self, *_: Any) -> Any:
            raise NotFound("there is no collection c in the store", field="collection")

    search = RankedSearch(cast("Any", Gone()), RankingMode(), np.ones(4, np.float32))
    with pytest.raises(CollectionDamaged, match="no collection c in the store, though the ledger has it: restore"):
        await search.window(0, 10)
