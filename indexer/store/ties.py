"""One order of equal scores, by point id, so that pages are windows into one ranking.

Both engines order equal scores as they like and cut a page anywhere among them. So a query asks for one point more than
the page has, and where the last score continues behind the page, for more until the score changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import nlargest

# Equal scores that most queries end with.
_FEW = 1_000
# Of more equal scores than this every page takes the same points, those that the engine gives for this limit: 12,000
# ids are read in 20 ms, and 10,000 hits is as far as a ranking can be walked unless the settings say otherwise.
MANY = 12_000

# Hits beyond those asked for, by words.
_SPARE = 32


def words_spare(count: int) -> int:
    """Return the `spare` of a query by words: short texts have many equal scores."""
    return max(_SPARE, count // 4)


def query_limits(count: int, spare: int = 1) -> tuple[int, ...]:
    """Return the limits to query with, one after another, until the answer `is_complete`. The first has `spare` points
    more than are asked for."""
    return (count + 1,) if count >= MANY else tuple(sorted({min(count + spare, MANY), min(count + _FEW, MANY), MANY}))


def is_complete(scores: Sequence[float], count: int, limit: int) -> bool:
    """Return whether the best `count` of these scores, the answer to a query for `limit`, are the best of all in the
    order of this module."""
    return len(scores) < limit or scores[-1] < scores[count - 1]


def in_order(ranked: Sequence[tuple[str, float]], count: int) -> list[tuple[str, float]]:
    """Return the best `count` of point ids and their scores."""
    if len(ranked) > count:
        least = _least([score for _, score in ranked], count) if count else math.inf
        ranked = [scored for scored in ranked if scored[1] >= least]
    return sorted(ranked, key=lambda scored: (-scored[1], scored[0]))[:count]


def _least(scores: list[float], count: int) -> float:
    """Return the least of the best `count` scores. Engines answer best first, or nearly so, which sorting is quick at;
    for a few of many in no order a heap is quicker."""
    return nlargest(count, scores)[-1] if 4 * count < len(scores) else sorted(scores, reverse=True)[count - 1]
