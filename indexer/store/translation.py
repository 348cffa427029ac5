"""Translate a filter into the terms of a Qdrant engine. The engines differ in their constructors only: see
`Vocabulary`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from indexer.filters import Filter, Leaf, Scalar, nodes, tight_bounds
from indexer.filters.words import words
from indexer.store.numbers import term_number, widened
from indexer.store.payload import path_of, relative_path, relative_terms_path, terms_path_of
from indexer.store.search_terms import number_term


class Vocabulary(Protocol):
    """The constructors of one engine. What they return is opaque here."""

    def all_of(self, conditions: Sequence[Any]) -> Any: ...

    def any_of(self, conditions: Sequence[Any]) -> Any:
        """Combine one condition or more: to the engines, an empty list is no condition."""

    def at_least(self, count: int, conditions: Sequence[Any]) -> Any: ...

    def none_of(self, conditions: Sequence[Any]) -> Any: ...

    def nothing(self) -> Any:
        """Return a condition that no point satisfies."""

    def nested(self, path: str, condition: Any) -> Any: ...

    def is_empty(self, path: str) -> Any: ...

    def value(self, path: str, value: str | bool) -> Any: ...

    def any_text(self, path: str, values: Sequence[str]) -> Any: ...

    def numbers(self, path: str, bounds: dict[str, float]) -> Any: ...

    def times(self, path: str, bounds: dict[str, datetime]) -> Any: ...

    def circle(self, path: str, circle: nodes.GeoRadius) -> Any: ...

    def box(self, path: str, box: nodes.GeoBox, west: float, east: float) -> Any: ...


def _whole_microseconds(bounds: dict[str, datetime]) -> dict[str, datetime]:
    """Return bounds that mean the same to an engine that reads nanoseconds as to one that cuts them off."""
    following, moved = timedelta(microseconds=1), {"lte": "lt", "gt": "gte"}
    # Nothing follows the last moment.
    last = datetime.max.replace(tzinfo=UTC)
    return {
        moved[name] if name in moved and bound < last else name: bound + following
        if name in moved and bound < last
        else bound
        for name, bound in bounds.items()
    }


def translate(condition: Filter, engine: Vocabulary) -> Any:
    """Return the engine's filter, which selects the points that the condition means."""
    return engine.all_of([_Translation(engine, inside_list=False).condition(condition)])


class _Translation:
    """Reads a tree. Inside a list of objects, paths begin at the object."""

    def __init__(self, engine: Vocabulary, *, inside_list: bool) -> None:
        self._engine = engine
        self._path = relative_path if inside_list else path_of
        self._terms_path = relative_terms_path if inside_list else terms_path_of

    def condition(self, condition: Filter) -> Any:
        match condition:
            case nodes.AllOf(of):
                return self._engine.all_of([self.condition(part) for part in of])
            case nodes.AnyOf(of):
                return self._any_of([self.condition(part) for part in of])
            case nodes.AtLeast(n, of):
                return self._engine.at_least(n, [self.condition(part) for part in of])
            case nodes.Not(of):
                return self._engine.none_of([self.condition(of)])
            case nodes.Nested(field, of):
                inside = _Translation(self._engine, inside_list=True).condition(of)
                return self._engine.nested(self._path(field), self._engine.all_of([inside]))
            case _:
                return self._leaf(condition)

    def _leaf(self, condition: Leaf) -> Any:
        path = self._path(condition.field)
        match condition:
            case nodes.Equals(field, value):
                return self._equals(field, value)
            case nodes.In(field, values):
                return self._in(field, values)
            case nodes.Range():
                return self._engine.numbers(path, widened(tight_bounds(condition)))
            case nodes.DateRange():
                return self._engine.times(path, _whole_microseconds(tight_bounds(condition)))
            case nodes.Empty():
                return self._engine.is_empty(path)
            case nodes.FullText(field, text):
                return self._full_text(field, text)
            case nodes.GeoRadius():
                return self._engine.circle(path, condition)
            case nodes.GeoBox():
                return self._any_of([self._engine.box(path, condition, west, east) for west, east in condition.spans()])

    def _any_of(self, conditions: Sequence[Any]) -> Any:
        return self._engine.any_of(conditions) if conditions else self._engine.nothing()

    def _equals(self, field: str, value: Scalar) -> Any:
        """Translate an equality. A number becomes a range, because a match is of integers and 1.0 or 2.5 in a payload
        is none. A large whole number is a search term."""
        path = self._path(field)
        if isinstance(value, bool | str):
            return self._engine.value(path, value)
        if (whole := term_number(value)) is not None:
            return self._engine.value(self._terms_path(field), number_term(whole))
        return self._engine.numbers(path, widened({"gte": float(value), "lte": float(value)}))

    def _in(self, field: str, values: tuple[str, ...] | tuple[int, ...]) -> Any:
        texts = [value for value in values if isinstance(value, str)]
        conditions = [self._equals(field, value) for value in values if not isinstance(value, str)]
        if texts:
            # No index of numbers answers a condition on words, not even on none.
            conditions.append(self._engine.any_text(self._path(field), texts))
        return self._any_of(conditions)

    def _full_text(self, field: str, text: str) -> Any:
        """Match the field's search terms. The engines' own full text differs between an index, none, and their
        versions."""
        terms_path = self._terms_path(field)
        return self._engine.all_of([self._engine.value(terms_path, word) for word in sorted(set(words(text)))])
