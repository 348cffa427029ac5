"""The order of documents by their metadata: the values that are compared, and a ranking sorted by them.

A document with a list is placed by its least value, descending by its greatest. Documents without a value come last
either way. Equal documents keep the order that they came in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from indexer.domain.points import Hit
from indexer.filters import FieldType, Filter, elements
from indexer.filters.values import is_number, read_moment
from indexer.store.base import Points
from indexer.store.criteria import Place
from model.errors import InvalidInput
from service.schemas.search import SortIn
from service.search.clock import Clock
from service.search.paging import Ranking

# A kind and a value of it, so that values of different kinds have an order: booleans, numbers, times, texts.
Value = tuple[int, Any]
_BOOL, _NUMBER, _TIME, _TEXT = range(4)
_KINDS = {
    FieldType.BOOL: _BOOL,
    FieldType.NUMBER: _NUMBER,
    FieldType.DATETIME: _TIME,
    FieldType.KEYWORD: _TEXT,
    FieldType.TEXT: _TEXT,
}


@dataclass(frozen=True, slots=True)
class SortKey:
    """A field to sort by. Of one that is declared only values of its type count; of others times are texts."""

    field: str
    descending: bool = False
    declared: FieldType | None = None

    def value(self, metadata: Mapping[str, Any]) -> Value | None:
        values = [value for element in elements(metadata, self.field) if (value := self._value(element)) is not None]
        if not values:
            return None
        return max(values) if self.descending else min(values)

    def _value(self, element: object) -> Value | None:
        value: Value | None = None
        match element:
            case bool():
                value = _BOOL, element
            case str() if self.declared == FieldType.DATETIME:
                moment = read_moment(element)
                value = None if moment is None else (_TIME, moment)
            case str():
                value = _TEXT, element
            case _ if is_number(element):
                # As an index compares them.
                value = _NUMBER, float(element)
        fits = value is None or self.declared is None or value[0] == _KINDS[self.declared]
        return value if fits else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A document in a sorted list: its point, and its value of each key."""

    point_id: str
    values: tuple[Value | None, ...]

    def wire(self) -> list[Any]:
        return [self.point_id, [_value_wire(value) for value in self.values]]

    @classmethod
    def read(cls, wire: Any) -> Entry:
        """Raise `ValueError` or `TypeError` for what `wire` has not written."""
        point_id, values = wire
        if not isinstance(point_id, str):
            raise TypeError("no point id")
        return cls(point_id, tuple(map(_read_value, values)))


def _value_wire(value: Value | None) -> list[Any] | None:
    if value is None:
        return None
    kind, content = value
    return [kind, content.isoformat() if isinstance(content, datetime) else content]


def _read_value(wire: Any) -> Value | None:
    if wire is None:
        return None
    kind: int
    content: Any
    kind, content = wire
    if type(content) is not {_BOOL: bool, _NUMBER: float, _TIME: str, _TEXT: str}[kind]:
        raise ValueError("a value of another kind")
    return (kind, datetime.fromisoformat(str(content))) if kind == _TIME else (kind, content)


def sort_keys(sort: Sequence[SortIn], declared: Mapping[str, FieldType]) -> tuple[SortKey, ...]:
    """Return the keys of a search. Raise `InvalidInput` for a field of places, which have no order."""
    for part in sort:
        if declared.get(part.field) == FieldType.GEO:
            raise InvalidInput(f"field {part.field} is declared geo, and places have no order", field="sort")
    return tuple(SortKey(part.field, part.order == "desc", declared.get(part.field)) for part in sort)


def in_order(entries: Sequence[Entry], keys: Sequence[SortKey]) -> list[Entry]:
    """Sort by the keys, the first above all."""
    ordered = list(entries)
    for place, key in reversed(list(enumerate(keys))):
        valued: list[tuple[Value, Entry]] = []
        missing = []
        for entry in ordered:
            if (value := entry.values[place]) is None:
                missing.append(entry)
            else:
                valued.append((value, entry))
        valued.sort(key=lambda pair: pair[0], reverse=key.descending)
        ordered = [entry for _, entry in valued] + missing
    return ordered


def is_behind(entry: Entry, mark: Entry, keys: Sequence[SortKey]) -> bool:
    """Return whether an entry comes after a mark, where equal ones are in the order of their points."""
    for key, own, marked in zip(keys, entry.values, mark.values, strict=True):
        if own == marked:
            continue
        if own is None or marked is None:
            return own is None
        return bool(own > marked) if not key.descending else bool(own < marked)
    return entry.point_id > mark.point_id


@dataclass(slots=True)
class SortedRanking:
    """The first `depth` documents of a ranking, sorted: a `paging.Ranking`. For one search."""

    ranking: Ranking
    points: Points
    keys: Sequence[SortKey]
    depth: int
    clock: Clock
    _sorted: list[Place] | None = field(default=None, repr=False)

    async def window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> list[Hit]:
        return await self.read(await self.places(offset, limit))

    async def places(self, offset: int, limit: int) -> Sequence[Place]:
        if self._sorted is None:
            ranked = await self.ranking.places(0, self.depth)
            with self.clock.in_store():
                rows = await self.points.columns.rows(
                    [place.point_id for place in ranked], [key.field for key in self.keys]
                )
            self._sorted = await asyncio.to_thread(self._sort, ranked, {row.point_id: row.metadata for row in rows})
        return self._sorted[offset : offset + limit]

    async def read(self, places: Sequence[Place]) -> list[Hit]:
        return await self.ranking.read(places)

    def _sort(self, ranked: Sequence[Place], metadata: Mapping[str, Mapping[str, Any]]) -> list[Place]:
        by_id = {place.point_id: place for place in ranked if place.point_id in metadata}
        entries = [Entry(point, tuple(key.value(metadata[point]) for key in self.keys)) for point in by_id]
        return [by_id[entry.point_id] for entry in in_order(entries, self.keys)]
