"""What a mode asks of the store."""

from typing import Any, cast

import numpy as np
import pytest

from indexer.domain.points import Point
from indexer.store.criteria import Criterion, LateInteraction, Ranked
from service.search.modes import ModeSearch, Wanted


class Asked:
    """The points of an empty collection; `by` has what was ranked by."""

    def __init__(self) -> None:
        self.by: list[Criterion] = []

    async def rank(self, by: Criterion, **_: Any) -> Ranked:
        self.by.append(by)
        return []

    async def read(self, point_ids: list[str], **_: Any) -> list[Point]:
        return []


@pytest.mark.parametrize("mode", ["fused", "hybrid"])
async def test_the_candidates_of_reranking_are_the_same_on_every_page(mode: str) -> None:
    asked, vector = Asked(), np.ones(4, np.float32)
    search = ModeSearch(cast("Any", asked), Wanted(mode, oversampling=4.0), vector, np.ones((2, 4), np.float32))
    for offset, limit in ((0, 10), (95, 50), (900, 1_000)):
        await search.search(limit=limit, offset=offset)
    assert [by.candidates for by in asked.by if isinstance(by, LateInteraction)] == [400, 400, 400]
