"""Walking the ranking of one search: a page by offset, the page behind a cursor, the best of each group.

Everything is read in windows of the ranking, so each works with every store and every way of ranking.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from indexer.domain.documents import point_id
from indexer.domain.points import Hit
from indexer.filters import Empty, Equals, Filter, Not, Scalar, elements
from model.errors import InvalidInput

# Hits of one window while groups are looked for.
_MIN_WINDOW, MAX_WINDOW = 32, 1_000
# How much further back each look for a cursor's place begins.
_STEP_BACK = 8


class Ranking(Protocol):
    """A ranking that can be read in windows: `modes.RankedSearch`."""

    async def window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> list[Hit]: ...


@dataclass(frozen=True, slots=True)
class Mark:
    """The last hit of a page: its place in the ranking, counted from 1, its score and id. `search` tells which search
    it belongs to."""

    place: int
    score: float
    document_id: str
    search: str

    def cursor(self) -> str:
        fields = [self.place, self.score, self.document_id, self.search]
        return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def read_cursor(cursor: str, search: str) -> Mark:
    """Read a cursor. Raise `InvalidInput` for one that this service did not write, or wrote for another search."""
    try:
        fields = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        mark = Mark(*fields)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidInput("the cursor was not made by this service", field="cursor", value=cursor) from error
    if not _is_mark(mark):
        raise InvalidInput("the cursor was not made by this service", field="cursor", value=cursor)
    if mark.search != search:
        raise InvalidInput(
            "the cursor belongs to another search: repeat the search that it came from, and change only limit and what "
            "the hits hold",
            field="cursor",
            value=cursor,
        )
    return mark


def _is_mark(mark: Mark) -> bool:
    types = type(mark.place) is int and isinstance(mark.score, int | float) and isinstance(mark.document_id, str)
    return types and mark.place >= 1 and math.isfinite(mark.score)


@dataclass(frozen=True, slots=True)
class Page:
    """`place` is that of the last hit, counted with those left out before it; None when the ranking ends with this
    page."""

    hits: list[Hit]
    place: int | None


@dataclass(frozen=True, slots=True)
class Group:
    value: Scalar
    hits: list[Hit]


@dataclass(frozen=True, slots=True)
class Pager:
    """Reads pages and groups of a ranking. No more than `depth` hits are read, from the best.

    `excluded` are documents that are never hits: the query is made of them. `steady`: a document's score is its own, as
    a cosine is. BM25 and ranks change with every write to any document.
    """

    ranking: Ranking
    excluded: frozenset[str]
    depth: int
    steady: bool = True

    async def page(self, offset: int, limit: int) -> Page:
        # Excluded documents have to be counted from the first hit on, and come on top of the others.
        start = 0 if self.excluded else offset
        hits = await self.ranking.window(start, offset - start + limit + 1 + len(self.excluded))
        return _page(self._placed(start, hits)[offset - start :], limit)

    async def after(self, mark: Mark, limit: int) -> Page:
        """Return the hits behind the mark, even if documents came and went before it."""
        start, hits, ended = await self._window_around(mark, limit)
        behind = self._count_to(mark, hits)
        if not behind and not self.steady:
            return await self._after_place(mark, len(hits), limit)
        placed = self._placed(start + behind, hits[behind:])
        place = start + len(hits)
        while len(placed) <= limit and not ended and place < self.depth:
            size = min(limit + 1, self.depth - place)
            following = await self.ranking.window(place, size)
            behind = 0 if placed else self._count_to(mark, following)
            placed += self._placed(place + behind, following[behind:])
            ended, place = len(following) < size, place + len(following)
        return _page(placed, limit, goes_on=not ended)

    async def _window_around(self, mark: Mark, limit: int) -> tuple[int, list[Hit], bool]:
        """Return a window that begins at or before the mark, usually exactly there; and whether the ranking ends in
        it."""
        back = 1
        while True:
            start = max(0, mark.place - back)
            size = limit + 1 + mark.place - start
            hits = await self.ranking.window(start, size)
            if start == 0 or self._count_to(mark, hits):
                return start, hits, len(hits) < size
            back *= _STEP_BACK

    async def _after_place(self, mark: Mark, seen: int, limit: int) -> Page:
        """Page on where scores change: the marked document is not among the best `seen`, so it is further behind, or it
        was deleted and those behind it moved up by one."""
        ahead = await self.ranking.window(seen, max(0, min(MAX_WINDOW, self.depth - seen)))
        further = _count_to_document(mark, ahead)
        place = seen + further if further else mark.place - 1
        size = max(0, min(limit + 1 + len(self.excluded), self.depth - place))
        hits = await self.ranking.window(place, size)
        return _page(self._placed(place, hits), limit, goes_on=len(hits) == size)

    def _count_to(self, mark: Mark, hits: Sequence[Hit]) -> int:
        """Count the hits at the mark or before it: by the marked document, or when it was deleted by its score and id.

        The document comes first: the query is encoded anew for each page, and a score may differ in its last digit.
        """
        if (count := _count_to_document(mark, hits)) or not self.steady:
            return count
        key = -mark.score, point_id(mark.document_id)
        return sum((-hit.score, point_id(hit.document_id)) <= key for hit in hits)

    async def groups(self, field: str, limit: int, size: int) -> list[Group]:
        """Return the best `limit` values of a metadata field, each with its best `size` hits, by their best hit.

        A document with a list is in the group of each element. Documents whose field is empty or holds an object are in
        none.
        """
        groups, complete = await self._values(field, limit, size)
        if not complete:
            short = [group for group in groups if len(group.hits) < size]
            await asyncio.gather(*(self._fill(group, field, size) for group in short))
        return groups

    async def _values(self, field: str, limit: int, size: int) -> tuple[list[Group], bool]:
        """Return the groups in the ranking's order, and whether each has all its hits."""
        groups: dict[tuple[bool, Scalar], Group] = {}
        place, window = 0, min(MAX_WINDOW, max(_MIN_WINDOW, 2 * limit * size))
        while len(groups) < limit and place < self.depth:
            requested = min(window, self.depth - place)
            hits = await self.ranking.window(place, requested, Not(Empty(field)))
            for hit in hits:
                if hit.document_id not in self.excluded:
                    _add(hit, field, groups, limit, size)
            place, window = place + len(hits), min(MAX_WINDOW, 2 * window)
            if len(hits) < requested:
                return list(groups.values()), True
        return list(groups.values()), False

    async def _fill(self, group: Group, field: str, size: int) -> None:
        hits = await self.ranking.window(0, size + len(self.excluded), Equals(field, group.value))
        group.hits[:] = [hit for hit in hits if hit.document_id not in self.excluded][:size]

    def _placed(self, start: int, hits: Sequence[Hit]) -> list[tuple[int, Hit]]:
        """Return the hits that are not excluded, each with its place."""
        placed = enumerate(hits, start + 1)
        return [(place, hit) for place, hit in placed if hit.document_id not in self.excluded]


def _page(placed: Sequence[tuple[int, Hit]], limit: int, *, goes_on: bool = False) -> Page:
    """Cut a page. A hit beyond it shows that the ranking goes on."""
    chosen = placed[:limit]
    is_last = not (chosen and (goes_on or len(placed) > limit))
    return Page([hit for _, hit in chosen], None if is_last else chosen[-1][0])


def _count_to_document(mark: Mark, hits: Sequence[Hit]) -> int:
    """Count the hits up to the marked document, it included; 0 where it is not among them."""
    return next((count for count, hit in enumerate(hits, 1) if hit.document_id == mark.document_id), 0)


def _add(hit: Hit, field: str, groups: dict[tuple[bool, Scalar], Group], limit: int, size: int) -> None:
    values = [value for value in elements(hit.metadata, field) if isinstance(value, Scalar)]
    # True is another group than 1, and 1.0 is the same as 1.
    for key, value in {(isinstance(value, bool), value): value for value in values}.items():
        if key not in groups and len(groups) < limit:
            groups[key] = Group(value, [])
        if key in groups and len(groups[key].hits) < size:
            groups[key].hits.append(hit)
