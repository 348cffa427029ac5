"""How a search names the breadth of a graph's search."""

from indexer.store.base import SearchWindow
from indexer.store.server.graph import GraphSearch


def breadths(window: SearchWindow, most_ef: int, *, whole: bool = False) -> list[int]:
    graph = GraphSearch.of(window, 100, most_ef=most_ef, oversampling=None)
    graph = graph.for_all(window.end) if whole else graph
    return [graph.params(breadth, window.end).hnsw_ef or 0 for breadth in graph.breadths(window.end)]


def test_a_ranking_that_is_read_as_a_whole_is_searched_once() -> None:
    assert breadths(SearchWindow(300), 1_000) == [101, 201, 401]
    assert breadths(SearchWindow(300), 1_000, whole=True) == [301]
    assert breadths(SearchWindow(30), 1_000, whole=True) == [101]


def test_no_breadth_is_over_the_limit_of_strict_mode() -> None:
    assert breadths(SearchWindow(300), 150) == [101, 151, 151]
    assert breadths(SearchWindow(300), 60, whole=True) == [61]
    assert breadths(SearchWindow(300, ef=200), 60) == [201, 201]
