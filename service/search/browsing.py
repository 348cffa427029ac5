"""Documents in the order of their metadata, without a query: walked through an index where there is one, else read and
sorted."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from indexer.filters import AllOf, DateRange, FieldType, Filter, Not, Range
from indexer.store.columns import Columns, FieldUse, Row
from model.errors import InvalidInput
from service.search.paging import check_owner, cursor_fields, cursor_of, foreign_cursor
from service.search.sorting import Entry, SortKey, in_order, is_behind

# Documents of equal value that are read to be sorted by the next key.
MAX_EQUAL = 100_000
# Rows of one call.
_PAGE = 5_000
_INDEXED = (FieldType.NUMBER, FieldType.DATETIME)


def sorted_cursor(last: Entry, search: str) -> str:
    """Return the cursor of a page that ends with this entry."""
    return cursor_of([*last.wire(), search])


def read_sorted_cursor(cursor: str, search: str, keys: int) -> Entry:
    """Read a cursor of `sorted_cursor`. Raise `InvalidInput` for any other, or one of another search."""
    try:
        *wire, owner = cursor_fields(cursor)
        entry = Entry.read(wire)
    except (ValueError, TypeError, KeyError) as error:
        raise foreign_cursor(cursor) from error
    check_owner(cursor, owner, search)
    if len(entry.values) != keys:
        raise foreign_cursor(cursor)
    return entry


@dataclass(frozen=True, slots=True)
class Browser:
    """Sorts the documents that fulfil a condition. Nothing is read further than the page needs where an index of the
    first key answers."""

    columns: Columns
    keys: Sequence[SortKey]
    condition: Filter | None = None

    async def entries(self, mark: Entry | None, limit: int) -> list[Entry]:
        """Return the next entries behind the mark. Raise `InvalidInput` or `IndexUnfinished` where that would read the
        metadata of too many documents."""
        first = self.keys[0]
        kind = await self.columns.index_for(FieldUse("the sort", first.field, _INDEXED), self.condition)
        if kind is not None and kind == first.declared:
            return await self._walk(mark, limit)
        return await self._sorted(self.condition, mark, limit)

    async def _walk(self, mark: Entry | None, limit: int) -> list[Entry]:
        first, entries = self.keys[0], list[Entry]()
        start: Any = None
        if mark is not None:
            entries = await self._equal(mark.values[0], mark, limit)
            if mark.values[0] is None:
                return entries
            start = _beyond(mark.values[0][1], first.descending)
        size = limit + 1
        while len(entries) < limit:
            rows = await self.columns.ordered(
                first.field, self.condition, size, self._fields, descending=first.descending, start=start
            )
            batch = self._distinct(rows, start)
            if len(rows) < size:
                entries += in_order(batch, self.keys)
                return (entries + await self._equal(None, None, limit - len(entries)))[:limit]
            if not batch:  # later values of documents that came before
                size *= 4
                continue
            # The last value may go on behind the batch.
            last = batch[-1].values[0]
            entries += in_order([entry for entry in batch if entry.values[0] != last], self.keys)
            entries += await self._equal(last, None, limit - len(entries))
            assert last is not None
            start = _beyond(last[1], first.descending)
        return entries[:limit]

    def _distinct(self, rows: Sequence[Row], start: Any) -> list[Entry]:
        """Return the documents that come where they belong, by point within equal values."""
        first = self.keys[0]
        entries = {}
        for row in rows:
            entry = self._entry(row)
            value = entry.values[0]
            if value is None or (start is not None and (value[1] > start if first.descending else value[1] < start)):
                continue
            entries[row.point_id] = entry
        ordered = sorted(entries.values(), key=lambda entry: entry.point_id)
        return in_order(ordered, self.keys[:1])

    async def _equal(self, value: Any, mark: Entry | None, limit: int) -> list[Entry]:
        """Return the documents with this value of the first key, None for those without any."""
        if limit <= 0:
            return []
        first = self.keys[0]
        condition = _with_value(first, value)
        condition = condition if self.condition is None else AllOf((self.condition, condition))
        if len(self.keys) > 1:
            return await self._sorted(condition, mark, limit, value)
        entries: list[Entry] = []
        after = None if mark is None else mark.point_id
        while len(entries) < limit:
            rows, after = await self.columns.scan(after, min(_PAGE, limit + 1), condition, self._fields)
            read = [self._entry(row) for row in rows if mark is None or row.point_id != mark.point_id]
            entries += [entry for entry in read if entry.values[0] == value]
            if after is None:
                break
        return entries[:limit]

    async def _sorted(self, condition: Filter | None, mark: Entry | None, limit: int, value: Any = ()) -> list[Entry]:
        """Read all documents of a condition and sort them; with a value, only those of this value of the first key."""
        entries: list[Entry] = []
        after: str | None = None
        while True:
            rows, after = await self.columns.scan(after, _PAGE, condition, self._fields)
            read = map(self._entry, rows)
            entries += [entry for entry in read if value == () or entry.values[0] == value]
            if len(entries) > MAX_EQUAL:
                raise InvalidInput(
                    f"more than {MAX_EQUAL} documents have one value of {self.keys[0].field}, too many to be sorted "
                    "by another field: narrow them with a filter, or sort by one field",
                    field="sort",
                    limit=MAX_EQUAL,
                )
            if after is None:
                break
        if mark is not None:
            entries = [entry for entry in entries if is_behind(entry, mark, self.keys)]
        entries.sort(key=lambda entry: entry.point_id)
        return (await asyncio.to_thread(in_order, entries, self.keys))[:limit]

    def _entry(self, row: Row) -> Entry:
        return Entry(row.point_id, tuple(key.value(row.metadata) for key in self.keys))

    @property
    def _fields(self) -> list[str]:
        return [key.field for key in self.keys]


def _beyond(value: float | datetime, descending: bool) -> float | datetime:
    """Return the next value in the order."""
    if isinstance(value, datetime):
        step = timedelta(microseconds=-1 if descending else 1)
        return value + step if _EARLIEST < value < _LATEST else value
    return math.nextafter(value, -math.inf if descending else math.inf)


_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


def _with_value(key: SortKey, value: Any) -> Filter:
    """Return the condition for a value of a key's index, None for none."""
    if key.declared == FieldType.DATETIME:
        if value is None:
            return Not(DateRange(key.field, gte=_EARLIEST))
        return DateRange(key.field, gte=value[1], lte=value[1])
    if value is None:
        return Not(Range(key.field, gte=-sys.float_info.max))
    return Range(key.field, gte=value[1], lte=value[1])
