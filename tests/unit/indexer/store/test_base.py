"""The window that a search reads of a ranking."""

import pytest

from indexer.store.base import SearchWindow
from model.errors import InvalidInput

RANKED = [("a", 0.9), ("b", 0.7), ("c", 0.5), ("d", 0.3)]


@pytest.mark.parametrize(
    ("window", "ids"),
    [
        (SearchWindow(2), "ab"),
        (SearchWindow(2, 1), "bc"),
        (SearchWindow(9, 3), "d"),
        (SearchWindow(0), ""),
        (SearchWindow(9, score_threshold=0.5), "abc"),
        (SearchWindow(9, 1, score_threshold=0.6), "b"),
    ],
)
def test_a_window_is_cut_from_what_reaches_the_threshold(window: SearchWindow, ids: str) -> None:
    assert "".join(point for point, _ in window.cut(RANKED)) == ids


@pytest.mark.parametrize(("window", "field"), [(SearchWindow(-1), "limit"), (SearchWindow(1, -2), "offset")])
def test_a_negative_bound_is_refused_by_its_name(window: SearchWindow, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        window.check()
    assert error.value.field == field
