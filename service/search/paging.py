"""Walking the ranking of one search: a page by offset, the page behind a cursor, the best of each group.

Everything is asked of the store in windows of its ranking, so each works with every store and every way of ranking.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from indexer.domain.documents import point_id
from indexer.domain.points import Hit
from indexer.filters import Empty, Equals, Filter, Not, Scalar, elements
from model.errors import InvalidInput

Ask = Callable[[int, int, Filter | None], Awaitable[list[Hit]]]  # offset, limit, a condition beside the search's own

_MIN_WINDOW, _MAX_WINDOW = 32, 1_000  # hits asked for at once while groups are looked for
_STEP_BACK = 8  # how much further back each look for a cursor's place begins


@dataclass(frozen=True, slots=True)
class Mark:
    """The last hit of a page: its place in the ranking, counted from 1, and what it was. `search` tells which search it is of."""

    place: int
    score: float
    document_id: str
    search: str

    def cursor(self) -> str:
        fields = [self.place, self.score, self.document_id, self.search]
        return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def read_cursor(cursor: str, search: str) -> Mark:
    """Raises `InvalidInput` for what this service did not write, or wrote for another search."""
    try:
        fields = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        mark = Mark(*fields)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidInput("the cursor is none of this service", field="cursor", value=cursor) from error
    if not _is_mark(mark):
        raise InvalidInput("the cursor is none of this service", field="cursor", value=cursor)
    if mark.search != search:
        raise InvalidInput(
            "the cursor is of another search: send the search that it came from, changed in nothing but limit and what "
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
    """`place` is that of the last hit, whatever was left out before it; None when the ranking ends with this page."""

    hits: list[Hit]
    place: int | None


@dataclass(frozen=True, slots=True)
class Group:
    value: Scalar
    hits: list[Hit]


@dataclass(frozen=True, slots=True)
class Ranking:
    """`left_out` are the documents that the query is made of. No more than `depth` hits are looked at, from the best.

    `steady`: a document's score is its own, as a cosine is. BM25 and ranks change with every write to any document.
    """

    ask: Ask
    left_out: frozenset[str]
    depth: int
    steady: bool = True

    async def page(self, offset: int, limit: int) -> Page:
        # What is left out has to be counted from the first hit on, and was asked for beside the others.
        start = 0 if self.left_out else offset
        hits = await self.ask(start, offset - start + limit + 1 + len(self.left_out), None)
        return _page(self._kept(start, hits)[offset - start :], limit)

    async def after(self, mark: Mark, limit: int) -> Page:
        """The hits behind the mark, though documents came and went before it meanwhile."""
        start, hits, ended = await self._from(mark, limit)
        behind = self._behind(mark, hits)
        if not behind and not self.steady:
            return await self._behind_place(mark, len(hits), limit)
        found = self._kept(start + behind, hits[behind:])
        place = start + len(hits)
        while len(found) <= limit and not ended and place < self.depth:
            wanted = min(limit + 1, self.depth - place)
            more = await self.ask(place, wanted, None)
            behind = 0 if found else self._behind(mark, more)
            found += self._kept(place + behind, more[behind:])
            ended, place = len(more) < wanted, place + len(more)
        return _page(found, limit, more=not ended)

    async def _from(self, mark: Mark, limit: int) -> tuple[int, list[Hit], bool]:
        """A window that begins at or before the mark, by default exactly there; and whether the ranking ends in it."""
        back = 1
        while True:
            start = max(0, mark.place - back)
            wanted = limit + 1 + mark.place - start
            hits = await self.ask(start, wanted, None)
            if start == 0 or self._behind(mark, hits):
                return start, hits, len(hits) < wanted
            back *= _STEP_BACK

    async def _behind_place(self, mark: Mark, looked_at: int, limit: int) -> Page:
        """Where scores change: the marked document is not among the best `looked_at`, so it is further behind, or has gone and
        those behind it moved up by one."""
        ahead = await self.ask(looked_at, max(0, min(_MAX_WINDOW, self.depth - looked_at)), None)
        further = _up_to(mark, ahead)
        place = looked_at + further if further else mark.place - 1
        wanted = max(0, min(limit + 1 + len(self.left_out), self.depth - place))
        hits = await self.ask(place, wanted, None)
        return _page(self._kept(place, hits), limit, more=len(hits) == wanted)

    def _behind(self, mark: Mark, hits: Sequence[Hit]) -> int:
        """How many of the hits are at the mark or before it: by the marked document, or when it has gone by its score and id.

        By the document first: the query is encoded anew for each page, and a score may differ in its last digit.
        """
        if (count := _up_to(mark, hits)) or not self.steady:
            return count
        key = -mark.score, point_id(mark.document_id)
        return sum((-hit.score, point_id(hit.document_id)) <= key for hit in hits)

    async def groups(self, field: str, limit: int, size: int) -> list[Group]:
        """The best `limit` values of a metadata field, each with its best `size` hits, by their best hit.

        A document with a list is in the group of each element. Documents whose field is empty or holds an object are in none.
        """
        groups, complete = await self._values(field, limit, size)
        if not complete:
            few = [group for group in groups if len(group.hits) < size]
            await asyncio.gather(*(self._fill(group, field, size) for group in few))
        return groups

    async def _values(self, field: str, limit: int, size: int) -> tuple[list[Group], bool]:
        """The groups that the ranking has, in its order, and whether each has all its hits."""
        groups: dict[tuple[bool, Scalar], Group] = {}
        place, window = 0, min(_MAX_WINDOW, max(_MIN_WINDOW, 2 * limit * size))
        while len(groups) < limit and place < self.depth:
            asked = min(window, self.depth - place)
            hits = await self.ask(place, asked, Not(Empty(field)))
            for hit in hits:
                if hit.document_id not in self.left_out:
                    _put(hit, field, groups, limit, size)
            place, window = place + len(hits), min(_MAX_WINDOW, 2 * window)
            if len(hits) < asked:
                return list(groups.values()), True
        return list(groups.values()), False

    async def _fill(self, group: Group, field: str, size: int) -> None:
        hits = await self.ask(0, size + len(self.left_out), Equals(field, group.value))
        group.hits[:] = [hit for hit in hits if hit.document_id not in self.left_out][:size]

    def _kept(self, start: int, hits: Sequence[Hit]) -> list[tuple[int, Hit]]:
        """The hits that are not left out, each with its place."""
        placed = enumerate(hits, start + 1)
        return [(place, hit) for place, hit in placed if hit.document_id not in self.left_out]


def _page(found: Sequence[tuple[int, Hit]], limit: int, *, more: bool = False) -> Page:
    """`found` has one more than the page where there is one: with it the ranking goes on."""
    chosen = found[:limit]
    goes_on = chosen and (more or len(found) > limit)
    return Page([hit for _, hit in chosen], chosen[-1][0] if goes_on else None)


def _up_to(mark: Mark, hits: Sequence[Hit]) -> int:
    """How many of the hits go to the marked document, it included; 0 where it is not among them."""
    return next((count for count, hit in enumerate(hits, 1) if hit.document_id == mark.document_id), 0)


def _put(hit: Hit, field: str, groups: dict[tuple[bool, Scalar], Group], limit: int, size: int) -> None:
    values = [value for value in elements(hit.metadata, field) if isinstance(value, Scalar)]
    for key, value in {(isinstance(value, bool), value): value for value in values}.items():  # True is no 1; 1.0 is
        if key not in groups and len(groups) < limit:
            groups[key] = Group(value, [])
        if key in groups and len(groups[key].hits) < size:
            groups[key].hits.append(hit)


def selected(metadata: Any, fields: bool | Sequence[str]) -> dict[str, Any]:
    """The metadata with these fields alone, each by its key or by keys joined with dots; True: all, False: none."""
    if isinstance(fields, bool):
        return dict(metadata) if fields else {}
    return _selected(metadata, tuple(fields))


def _selected(metadata: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    chosen = {}
    names, inner = frozenset(fields), _inner_fields(fields)
    for key, value in metadata.items():
        if key in names:
            chosen[key] = value
        elif key in inner and isinstance(value, dict) and (part := _selected(value, inner[key])):
            chosen[key] = part
    return chosen


@lru_cache(maxsize=256)
def _inner_fields(fields: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Split every name at each of its dots: the rest of the names by their beginning. Once for all hits of a search."""
    inner: dict[str, list[str]] = {}
    for field in fields:
        for place, character in enumerate(field):
            if character == ".":
                inner.setdefault(field[:place], []).append(field[place + 1 :])
    return {key: tuple(names) for key, names in inner.items()}
