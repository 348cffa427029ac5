"""The metadata fields of an Edge collection, asked of the child process."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from indexer.filters import FieldType, Filter
from indexer.observability.watch import Watch
from indexer.store.columns import FieldUse, Row, selectors
from indexer.store.measure import measured

# Rows of one call: some 15 ms. Other calls run between two of them.
_ROWS_PER_CALL = 1_000


class EdgeColumns:
    """See `Columns`."""

    def __init__(self, call: Any, name: str, watch: Watch) -> None:
        self._call = call
        self._name = name
        self.watch = watch

    @measured
    async def index_for(self, use: FieldUse, condition: Filter | None) -> FieldType | None:
        kind: FieldType | None = await self._call("index_for", self._name, use, condition)
        return kind

    @measured
    async def rows(self, point_ids: list[str], fields: Iterable[str], *, with_vectors: bool = False) -> list[Row]:
        paths, rows = selectors(fields), list[Row]()
        for start in range(0, len(point_ids), _ROWS_PER_CALL):
            ids = point_ids[start : start + _ROWS_PER_CALL]
            rows += await self._call("rows", self._name, ids, paths, with_vectors)
        return rows

    @measured
    async def scan(
        self, after: str | None, limit: int, condition: Filter | None, fields: Iterable[str]
    ) -> tuple[list[Row], str | None]:
        """Return a page, one stretch of points after another."""
        paths, rows = selectors(fields), list[Row]()
        while True:
            size = min(limit - len(rows), _ROWS_PER_CALL)
            part, after = await self._call("scan", self._name, after, size, condition, paths)
            rows += part
            if after is None or len(rows) >= limit:
                return rows, after

    @measured
    async def facet(self, field: str, condition: Filter | None, limit: int, *, exact: bool) -> list[tuple[Any, int]]:
        values: list[tuple[Any, int]] = await self._call("facet", self._name, field, condition, limit, exact)
        return values

    @measured
    async def ordered(
        self,
        field: str,
        condition: Filter | None,
        limit: int,
        fields: Iterable[str],
        *,
        descending: bool,
        start: float | datetime | None,
    ) -> list[Row]:
        arguments = (self._name, field, condition, limit, descending, start, selectors(fields))
        rows: list[Row] = await self._call("ordered", *arguments)
        return rows
