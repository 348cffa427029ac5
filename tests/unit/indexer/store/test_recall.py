"""Recall of a graph, measured against exact search."""

import numpy as np
import pytest
from fake_store import FakeStore

from indexer.domain.points import Hit, Point
from indexer.store.base import SearchWindow
from indexer.store.criteria import Nearest
from indexer.store.recall import BREADTHS, Recall, measure_recall
from model.errors import InvalidInput

D = 8


class Graph:
    """A collection whose graph finds one hit in two with little breadth."""

    def __init__(self, store: FakeStore) -> None:
        self._points = store.points("c")
        self.page, self.fetch = self._points.page, self._points.fetch

    async def search(self, nearest: Nearest, window: SearchWindow) -> list[Hit]:
        hits = await self._points.search(nearest, SearchWindow(2 * window.limit))
        narrow = window.ef is not None and window.ef < 256
        return hits[:: 2 if narrow else 1][: window.limit]


async def test_recall_is_that_of_the_exact_hits() -> None:
    store = FakeStore()
    await store.create("c", D)
    with pytest.raises(InvalidInput, match="no documents to measure with"):
        await measure_recall(store.points("c"))
    vectors = np.random.default_rng(1).standard_normal((60, D)).astype(np.float32)
    await store.points("c").upsert([Point(f"d{i}", vectors[i], None, None, {}, "") for i in range(60)])
    measured = await measure_recall(Graph(store), queries=5, hits=10)  # type: ignore[arg-type]
    assert [kind.kind for kind in measured] == ["near a document", "between two documents", "in a random direction"]
    for kind in measured:
        assert kind.by_ef == {ef: 0.5 if ef < 256 else 1.0 for ef in BREADTHS}
        assert kind.least_ef(0.99) == 256
        assert kind.least_ef(0.5) == 32
    assert Recall("", 1, {32: 1.0, 64: 0.5, 128: 0.9}).least_ef(0.99) is None
