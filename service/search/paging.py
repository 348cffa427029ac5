"""Walking the ranking of one search: a page by offset, the page behind a cursor, the best of each group.

Everything is read in windows of the ranking, so each works with every store and every way of ranking.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from indexer.domain.documents import point_id
from indexer.domain.points import Hit
from indexer.filters import Empty, Equals, Filter, Not, Scalar, elements
from indexer.store.criteria import Place
from model.errors import InvalidInput

# Hits of one window while groups are looked for.
_MIN_WINDOW, MAX_WINDOW = 32, 1_000
# How much further back each look for a cursor's place begins.
_STEP_BACK = 8


class Ranking(Protocol):
    """A ranking that can be read in windows: `modes.RankedSearch`."""

    async def window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> list[Hit]: ...

    async def places(self, offset: int, limit: int) -> Sequence[Place]:
        """Return the ids and scores of a window, without reading its documents."""
        ...

    async def read(self, places: Sequence[Place]) -> list[Hit]:
        """Return the documents of these places, without those deleted since."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """The last hit of a page: its place in the ranking, counted from 1, its score and id. `search` tells which search
    it belongs to."""

    place: int
    score: float
    document_id: str
    search: str

    def cursor(self) -> str:
        return cursor_of([self.place, self.score, self.document_id, self.search])


def read_cursor(cursor: str, search: str) -> Mark:
    """Read a cursor. Raise `InvalidInput` for one that this service did not write, or wrote for another search."""
    try:
        mark = Mark(*cursor_fields(cursor))
    except (ValueError, TypeError) as error:
        raise foreign_cursor(cursor) from error
    if not _is_mark(mark):
        raise foreign_cursor(cursor)
    check_owner(cursor, mark.search, search)
    return mark


def cursor_of(fields: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def cursor_fields(cursor: str) -> Any:
    """Return what a cursor was made of. Raise `ValueError` for one that cannot be read."""
    return orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))


def foreign_cursor(cursor: str) -> InvalidInput:
    return InvalidInput("the cursor was not made by this service", field="cursor", value=cursor)


def check_owner(cursor: str, owner: object, search: str) -> None:
    """Raise `InvalidInput` where a cursor belongs to another search."""
    if owner != search:
        raise InvalidInput(
            "the cursor belongs to another search, or to a collection that was deleted or replaced since: repeat the "
            "search that it came from, and change only limit and what the hits hold",
            field="cursor",
            value=cursor,
        )


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
        if not self.excluded:
            hits = await self.ranking.window(offset, limit + 1)
            return _page(list(enumerate(hits, offset + 1)), limit, goes_on=len(hits) > limit)
        # Excluded documents have to be counted from the first hit on, and come on top of the others.
        ranked = await self.ranking.places(0, offset + limit + 1 + len(self.excluded))
        return await self._read(self._placed(0, ranked)[offset:], limit)

    async def after(self, mark: Mark, limit: int) -> Page:
        """Return the hits behind the mark, even if documents came and went before it."""
        start, ranked, ended = await self._window_around(mark, limit)
        behind = self._count_to(mark, ranked)
        if not behind and not self.steady:
            return await self._after_place(mark, len(ranked), limit)
        placed = self._placed(start + behind, ranked[behind:])
        place = start + len(ranked)
        while len(placed) <= limit and not ended and place < self.depth:
            size = min(limit + 1, self.depth - place)
            following = await self.ranking.places(place, size)
            behind = 0 if placed else self._count_to(mark, following)
            placed += self._placed(place + behind, following[behind:])
            ended, place = len(following) < size, place + len(following)
        return await self._read(placed, limit, goes_on=not ended)

    async def _window_around(self, mark: Mark, limit: int) -> tuple[int, Sequence[Place], bool]:
        """Return a window that begins at or before the mark, usually exactly there; and whether the ranking ends in
        it."""
        back = 1
        while True:
            start = max(0, mark.place - back)
            size = limit + 1 + mark.place - start
            ranked = await self.ranking.places(start, size)
            if start == 0 or self._count_to(mark, ranked):
                return start, ranked, len(ranked) < size
            back *= _STEP_BACK

    async def _after_place(self, mark: Mark, seen: int, limit: int) -> Page:
        """Page on where scores change: the marked document is not among the best `seen`, so it is further behind, or it
        was deleted and those behind it moved up by one."""
        ahead = await self.ranking.places(seen, max(0, min(MAX_WINDOW, self.depth - seen)))
        further = _count_to_document(mark, ahead)
        place = seen + further if further else mark.place - 1
        size = max(0, min(limit + 1 + len(self.excluded), self.depth - place))
        ranked = await self.ranking.places(place, size)
        return await self._read(self._placed(place, ranked), limit, goes_on=len(ranked) == size)

    async def _read(self, placed: Sequence[tuple[int, Place]], limit: int, *, goes_on: bool = False) -> Page:
        """Read the documents of a page and no others; what was skipped before it is ids and scores."""
        goes_on = goes_on or len(placed) > limit
        places = {document.point_id: place for place, document in placed[: limit + 1]}
        hits = await self.ranking.read([document for _, document in placed[: limit + 1]])
        return _page([(places[point_id(hit.document_id)], hit) for hit in hits], limit, goes_on=goes_on)

    def _count_to(self, mark: Mark, ranked: Sequence[Place]) -> int:
        """Count the places at the mark or before it: by the marked document, or when it was deleted by its score and
        id.

        The document comes first: the query is encoded anew for each page, and a score may differ in its last digit.
        """
        if (count := _count_to_document(mark, ranked)) or not self.steady:
            return count
        key = -mark.score, point_id(mark.document_id)
        return sum((-document.score, document.point_id) <= key for document in ranked)

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

    def _placed(self, start: int, ranked: Sequence[Place]) -> list[tuple[int, Place]]:
        """Return the documents that are not excluded, each with its place."""
        excluded = {point_id(document_id) for document_id in self.excluded}
        return [
            (place, document) for place, document in enumerate(ranked, start + 1) if document.point_id not in excluded
        ]


def _page(placed: Sequence[tuple[int, Hit]], limit: int, *, goes_on: bool) -> Page:
    """Cut a page out of hits and their places."""
    chosen = placed[:limit]
    return Page([hit for _, hit in chosen], chosen[-1][0] if chosen and goes_on else None)


def _count_to_document(mark: Mark, ranked: Sequence[Place]) -> int:
    """Count the places up to the marked document, it included; 0 where it is not among them."""
    marked = point_id(mark.document_id)
    return next((count for count, document in enumerate(ranked, 1) if document.point_id == marked), 0)


def _add(hit: Hit, field: str, groups: dict[tuple[bool, Scalar], Group], limit: int, size: int) -> None:
    values = [value for value in elements(hit.metadata, field) if isinstance(value, Scalar)]
    # True is another group than 1, and 1.0 is the same as 1.
    for key, value in {(isinstance(value, bool), value): value for value in values}.items():
        if key not in groups and len(groups) < limit:
            groups[key] = Group(value, [])
        if key in groups and len(groups[key].hits) < size:
            groups[key].hits.append(hit)
