"""How a search reads the HNSW graph of a Qdrant server, so that its pages are windows into one ranking.

A graph answers each breadth of search (`ef`) with other hits, and a server widens it with the number of hits. So every
page asks with the same breadth, and with the same number of candidates where they are quantized. What lies behind the
first `ef` hits comes from searches of twice that breadth, four times, and so on, without the hits of those before: no
page repeats a hit or skips one, and a hit that only a wider search finds stands behind those of the narrower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from qdrant_client import models as q

from indexer.store.base import SearchWindow
from indexer.store.server.strict import NO_LIMIT


@dataclass(frozen=True, slots=True)
class GraphSearch:
    """`ef` is the breadth of the first search; `oversampling` is set with quantization alone. `most_ef` is the most
    that a search may name; a server searches as broadly as it returns hits anyway."""

    ef: int
    exact: bool = False
    oversampling: float | None = None
    most_ef: int = NO_LIMIT

    @classmethod
    def of(cls, window: SearchWindow, ef: int, *, most_ef: int, oversampling: float | None) -> GraphSearch:
        """Return the search of a window, of breadth `ef` unless the caller names one, which `most_ef` does not
        bound."""
        ef = window.ef or min(ef, most_ef)
        return cls(ef, window.exact, oversampling, max(ef, most_ef))

    def for_all(self, count: int) -> GraphSearch:
        """Return the search of a ranking that is read as a whole, by one search."""
        return replace(self, ef=max(self.ef, count))

    def breadths(self, count: int) -> Iterator[int]:
        """Yield the breadths that together give the best `count` hits. An exact search needs one."""
        breadth = self.ef
        yield breadth
        while breadth < count and not self.exact:
            breadth *= 2
            yield breadth

    def params(self, breadth: int, limit: int) -> q.SearchParams:
        """Return the parameters of a query for `limit` hits. Candidates found by quantized vectors are always scored
        again by the whole ones, so that scores are the cosine on every store."""
        if self.exact:
            return q.SearchParams(exact=True, quantization=q.QuantizationSearchParams(ignore=True))
        quantization = None
        if self.oversampling is not None:
            # A server takes the least whole number of candidates that is at least oversampling * limit.
            candidates = max(breadth * self.oversampling, limit) - 0.5
            quantization = q.QuantizationSearchParams(rescore=True, oversampling=max(1.0, candidates / limit))
        # One more than the hits, to see whether equal scores go on.
        return q.SearchParams(hnsw_ef=min(breadth, self.most_ef) + 1, quantization=quantization)
