"""The breadths of a search through a graph."""

from indexer.store.breadths import breadths


def test_each_breadth_is_twice_the_last_until_it_gives_all_hits() -> None:
    assert list(breadths(128, 10)) == [128]
    assert list(breadths(128, 128)) == [128]
    assert list(breadths(128, 129)) == [128, 256]
    assert list(breadths(16, 100)) == [16, 32, 64, 128]
