"""How the pages of a search through a graph are windows into one ranking.

A graph answers each breadth of search (`ef`) with other hits, and an engine widens it with the number of hits. So every
page asks with the same breadth. What lies behind the first `ef` hits comes from searches of twice that breadth, four
times, and so on, without the hits of those before: no page repeats a hit or skips one, and a hit that only a wider
search finds stands behind those of the narrower.
"""

from __future__ import annotations

from collections.abc import Iterator


def breadths(ef: int, count: int) -> Iterator[int]:
    """Yield the breadths that together give the best `count` hits."""
    yield ef
    while ef < count:
        ef *= 2
        yield ef
