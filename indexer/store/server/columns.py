"""The metadata fields of a collection on a Qdrant server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qdrant_client import models as q

from indexer.filters import FieldType, Filter
from indexer.store.columns import FieldUse, Row, row_of, selectors
from indexer.store.indexes import answered, index_for, refuse_use, unanswered
from indexer.store.measure import measured
from indexer.store.payload import path_of
from indexer.store.server.errors import translating_errors
from indexer.store.server.filters import to_server
from indexer.store.server.messages import Record
from indexer.store.vectors import DENSE, unpacked

if TYPE_CHECKING:
    from indexer.store.server.store import ServerStore

# Rows of one call.
_ROWS_PER_CALL = 1_000


class ServerColumns:
    """See `Columns`. `chosen` turns a condition into the server's terms, or refuses it."""

    def __init__(self, store: ServerStore, name: str, chosen: Callable[[Filter], Awaitable[q.Filter]]) -> None:
        self._store = store
        self.watch = store.watch
        self._client = store.client
        self._name = name
        self._engine_name = store.engine_name(name)
        self._chosen = chosen

    @measured
    async def index_for(self, use: FieldUse, condition: Filter | None) -> FieldType | None:
        if condition is not None:
            await self._chosen(condition)
        description = await self._store.describe(self._name)
        kind = index_for(use, description.indexed)
        if kind is None:
            description = await self._store.describe(self._name, fresh=True)
            kind = index_for(use, description.indexed)
        limit, documents = description.readable_documents, description.documents
        if kind is None and documents > limit:
            narrowed = None if condition is None else to_server(answered(condition, description.indexed))
            if narrowed is not None and limit:
                with translating_errors("count"):
                    documents = (await self._client.count(self._engine_name, narrowed, exact=False)).count
            if documents > limit:
                refuse_use(use, description.indexed, description.coming, documents, limit)
        return None if condition is not None and unanswered(condition, description.indexed) else kind

    @measured
    async def rows(self, point_ids: list[str], fields: Iterable[str], *, with_vectors: bool = False) -> list[Row]:
        await self._store.describe(self._name)
        paths, rows = selectors(fields), list[Row]()
        for start in range(0, len(point_ids), _ROWS_PER_CALL):
            with translating_errors("retrieve"):
                records = await self._client.read_records(
                    self._engine_name,
                    point_ids[start : start + _ROWS_PER_CALL],
                    paths,
                    [DENSE] if with_vectors else False,
                )
            rows += [_row(record, with_vectors) for record in records]
        return rows

    @measured
    async def scan(
        self, after: str | None, limit: int, condition: Filter | None, fields: Iterable[str]
    ) -> tuple[list[Row], str | None]:
        chosen = await self._condition(condition)
        with translating_errors("scroll"):
            records, following = await self._client.scroll_records(
                self._engine_name, chosen, limit, after, selectors(fields)
            )
        return [_row(record) for record in records], following

    @measured
    async def facet(self, field: str, condition: Filter | None, limit: int, *, exact: bool) -> list[tuple[Any, int]]:
        chosen = await self._condition(condition)
        with translating_errors("facet"):
            answer = await self._client.facet(
                self._engine_name, path_of(field), facet_filter=chosen, limit=limit, exact=exact
            )
        return [(hit.value, hit.count) for hit in answer.hits]

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
        chosen = await self._condition(condition)
        direction = q.Direction.DESC if descending else q.Direction.ASC
        order = q.OrderBy(key=path_of(field), direction=direction, start_from=start)
        with translating_errors("scroll"):
            records, _ = await self._client.scroll_records(
                self._engine_name, chosen, limit, payload=selectors(fields), order_by=order
            )
        return [_row(record) for record in records]

    async def _condition(self, condition: Filter | None) -> q.Filter | None:
        await self._store.describe(self._name)
        return None if condition is None else await self._chosen(condition)


def _row(record: Record, with_vector: bool = False) -> Row:
    return row_of(record.id, record.payload, unpacked(record.vector).vector if with_vector else None)
