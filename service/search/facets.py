"""The values of metadata fields, counted: over the documents of a filter by the store's indexes, or over those that a
query ranks first by reading them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from indexer.filters import AllOf, DateRange, FieldType, Filter, Range, elements
from indexer.filters.values import is_number, read_moment
from indexer.store.base import Points
from indexer.store.columns import FieldUse
from model.errors import InvalidInput
from service.search.sorting import SortKey

# Over more documents an index estimates.
EXACT_DOCUMENTS = 100_000
# Values that an index is asked for. Where a field has more, the counts of the listed ones may be short on a cluster.
MAX_VALUES = 1_000
BUCKETS = 10
_PAGE = 5_000
_INDEXES = (FieldType.KEYWORD, FieldType.NUMBER, FieldType.DATETIME, FieldType.BOOL)

Number = float | datetime


@dataclass(slots=True)
class _Tally:
    """The values of one field, as documents are read. Of a declared field values of its type alone count."""

    declared: FieldType | None
    values: Counter[tuple[bool, str | bool]] = field(default_factory=Counter)
    # Of each document that has any.
    numbers: list[set[Number]] = field(default_factory=list)

    def add(self, elements: Iterable[object]) -> None:
        values: set[tuple[bool, str | bool]] = set()
        numbers: set[Number] = set()
        for value in elements:
            match value:
                case bool() if self.declared in (None, FieldType.BOOL):
                    values.add((True, value))
                case str() if self.declared == FieldType.DATETIME:
                    if (moment := read_moment(value)) is not None:
                        numbers.add(moment)
                case str() if self.declared in (None, FieldType.KEYWORD, FieldType.TEXT):
                    values.add((False, value))
                case _ if is_number(value) and self.declared in (None, FieldType.NUMBER):
                    numbers.add(float(value))
        self.values.update(values)
        if numbers:
            self.numbers.append(numbers)


@dataclass(frozen=True, slots=True)
class Facets:
    """Counts the fields of the documents that fulfil a condition; at most `limit` values of a field are listed."""

    points: Points
    declared: Mapping[str, FieldType]
    condition: Filter | None
    limit: int

    async def of_condition(self, fields: Sequence[str]) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of the documents, and `FacetOut` for each field. Raise `InvalidInput` or `IndexUnfinished`
        where that would read the
        metadata of too many documents."""
        self._check(fields)
        columns = self.points.columns
        kinds = {
            name: await columns.index_for(FieldUse("the facet", name, _INDEXES), self.condition) for name in fields
        }
        documents = await self.points.count(self.condition)
        unread = [name for name, kind in kinds.items() if kind is None or kind != self.declared.get(name)]
        tallies = await self._scan(unread) if unread else {}
        facets = []
        for name in fields:
            if name in tallies:
                facets.append(self._of_tally(name, tallies[name], exact=True))
            elif kinds[name] in (FieldType.NUMBER, FieldType.DATETIME):
                facets.append(await self._spread(name))
            else:
                facets.append(await self._values(name, exact=documents <= EXACT_DOCUMENTS))
        return documents, facets

    async def of_points(self, fields: Sequence[str], point_ids: list[str], *, exact: bool) -> list[dict[str, Any]]:
        """Return `FacetOut` for each field, of these points. Not `exact` if they are a part of what was to be
        counted."""
        self._check(fields)
        tallies = self._tallies(fields)
        for row in await self.points.columns.rows(point_ids, fields):
            for name, tally in tallies.items():
                tally.add(elements(row.metadata, name))
        return [self._of_tally(name, tallies[name], exact=exact) for name in fields]

    def _check(self, fields: Sequence[str]) -> None:
        for name in fields:
            if self.declared.get(name) == FieldType.GEO:
                raise InvalidInput(f"field {name} is declared geo, and places are not counted", field="fields")

    def _tallies(self, fields: Sequence[str]) -> dict[str, _Tally]:
        return {name: _Tally(self.declared.get(name)) for name in fields}

    async def _scan(self, fields: Sequence[str]) -> dict[str, _Tally]:
        tallies = self._tallies(fields)
        after: str | None = None
        while True:
            rows, after = await self.points.columns.scan(after, _PAGE, self.condition, fields)
            for row in rows:
                for name, tally in tallies.items():
                    tally.add(elements(row.metadata, name))
            if after is None:
                return tallies

    def _of_tally(self, name: str, tally: _Tally, *, exact: bool) -> dict[str, Any]:
        counted = [(value, count) for (_, value), count in tally.values.items()]
        facet = self._listed(name, counted, exact=exact)
        if tally.numbers:
            least, most = min(map(min, tally.numbers)), max(map(max, tally.numbers))
            edges = _edges(least, most)
            counts = [0] * (len(edges) + 1)
            for numbers in tally.numbers:
                for bucket in {bisect_right(edges, number) for number in numbers}:
                    counts[bucket] += 1
            facet |= _histogram(least, most, edges, counts)
        return facet

    async def _values(self, name: str, *, exact: bool) -> dict[str, Any]:
        kind = bool if self.declared[name] == FieldType.BOOL else str
        counted = await self.points.columns.facet(name, self.condition, MAX_VALUES, exact=exact)
        values = [(value, count) for value, count in counted if type(value) is kind and count]
        return self._listed(name, values, exact=exact and len(counted) < MAX_VALUES)

    def _listed(self, name: str, counted: Sequence[tuple[str | bool, int]], *, exact: bool) -> dict[str, Any]:
        ordered = sorted(counted, key=lambda pair: (-pair[1], str(pair[0])))
        return {
            "field": name,
            "values": [{"value": value, "count": count} for value, count in ordered[: self.limit]],
            "has_more": len(ordered) > self.limit,
            "exact": exact,
            "min": None,
            "max": None,
            "histogram": [],
        }

    async def _spread(self, name: str) -> dict[str, Any]:
        """Return the least and the greatest number or time of a field, and how many documents lie between."""
        facet = self._listed(name, (), exact=True)
        least, most = await self._end(name, descending=False), await self._end(name, descending=True)
        if least is None or most is None:
            return facet
        edges = _edges(least, most)
        bounds = [{"gte": low, "lt": high} for low, high in zip((None, *edges), (*edges, None), strict=True)]
        kind: Any = DateRange if isinstance(least, datetime) else Range
        if not edges:
            bounds = [{"gte": least}]
        conditions = [kind(name, **{key: value for key, value in part.items() if value is not None}) for part in bounds]
        counts = [await self.points.count(self._joined(condition)) for condition in conditions]
        return facet | _histogram(least, most, edges, counts)

    async def _end(self, name: str, *, descending: bool) -> Number | None:
        """Return the first value of an order: that of the first document that has one of the declared type."""
        key = SortKey(name, descending, self.declared[name])
        rows = await self.points.columns.ordered(name, self.condition, 1, [name], descending=descending, start=None)
        values = [value[1] for row in rows if (value := key.value(row.metadata)) is not None]
        return values[0] if values else None

    def _joined(self, condition: Filter) -> Filter:
        return condition if self.condition is None else AllOf((self.condition, condition))


def _edges(least: Number, most: Number) -> list[Any]:
    """Return the inner edges of buckets of equal width; none where all values are equal."""
    if isinstance(least, datetime) and isinstance(most, datetime):
        moments = [least + (most - least) * (n / BUCKETS) for n in range(1, BUCKETS)]
        return [moment for moment in dict.fromkeys(moments) if least < moment < most]
    assert isinstance(least, float)
    assert isinstance(most, float)
    # Of 12 digits, which every store compares exactly.
    numbers = [float(f"{least + (most / BUCKETS - least / BUCKETS) * n:.12g}") for n in range(1, BUCKETS)]
    return [number for number in dict.fromkeys(numbers) if least < number < most]


def _histogram(least: Number, most: Number, edges: Sequence[Number], counts: Sequence[int]) -> dict[str, Any]:
    lows, highs = (least, *edges), (*edges, most)
    buckets = [
        {"low": _wire(low), "high": _wire(high), "count": count}
        for low, high, count in zip(lows, highs, counts, strict=True)
    ]
    return {"min": _wire(least), "max": _wire(most), "histogram": buckets}


def _wire(number: Number) -> float | str:
    return number.isoformat().replace("+00:00", "Z") if isinstance(number, datetime) else number
