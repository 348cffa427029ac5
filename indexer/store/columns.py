"""Metadata fields of points, read without their documents: what sorting, facets and boosts need of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from indexer.domain.documents import Metadata
from indexer.filters import FieldType, Filter, steps
from indexer.store.search_terms import EXACT, without_terms
from model.types import Float32


class Row(NamedTuple):
    """One point's metadata, of the requested fields at least, and its vector (D,) where that was asked for.

    A tuple, because a thousand of them cross the pipe of the embedded store in half the time.
    """

    point_id: str
    metadata: Metadata
    vector: Float32 | None = None


@dataclass(frozen=True, slots=True)
class FieldUse:
    """A use of a metadata field beside filters: its name in messages, and the types of index that answer it."""

    purpose: str
    field: str
    # The first is the one to declare.
    indexes: tuple[FieldType, ...]


class Columns(Protocol):
    """The metadata fields of one collection. Every method may raise `DependencyUnavailable`."""

    async def index_for(self, use: FieldUse, condition: Filter | None) -> FieldType | None:
        """Return the type of the field's index, None where metadata has to be read, of the field or for the condition.
        Raise `InvalidInput` or `IndexUnfinished` where that would be the metadata of too many documents."""
        ...

    async def rows(self, point_ids: list[str], fields: Iterable[str], *, with_vectors: bool = False) -> list[Row]:
        """Return the rows of points, in any order, without those deleted since."""
        ...

    async def scan(
        self, after: str | None, limit: int, condition: Filter | None, fields: Iterable[str]
    ) -> tuple[list[Row], str | None]:
        """Return rows in the order of the points and the `after` of the next page, None after the last."""
        ...

    async def facet(self, field: str, condition: Filter | None, limit: int, *, exact: bool) -> list[tuple[Any, int]]:
        """Return the values of a field with a keyword or bool index, with the number of documents that have each: the
        most frequent, in any order. Not `exact`, the numbers are estimates."""
        ...

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
        """Return rows in the order of the values of a field with an index of numbers or times, from `start` on. A row
        comes once for each of its values; equal values are in any order."""
        ...


def selectors(fields: Iterable[str]) -> list[str]:
    """Return the paths of a payload that hold these fields as they were posted."""
    keys = dict.fromkeys(steps(field)[0] for field in fields)
    return [path for key in keys for path in (f'"metadata"."{key}"', f'"metadata"."{EXACT}"."{key}"')]


def row_of(point_id: str, payload: Mapping[str, Any] | None, vector: Float32 | None = None) -> Row:
    return Row(point_id, without_terms((payload or {}).get("metadata") or {}), vector)
