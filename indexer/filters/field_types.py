"""The types a collection can declare its metadata fields to have, and the filters that do not fit them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from indexer.filters import nodes
from indexer.filters.nodes import Filter, Leaf, Scalar
from model.errors import InvalidInput


class FieldType(StrEnum):
    """The types with which a collection may declare a metadata field; each has its index in the stores."""

    KEYWORD = "keyword"
    NUMBER = "number"
    BOOL = "bool"
    DATETIME = "datetime"
    TEXT = "text"
    GEO = "geo"


def _accepted_types(condition: Leaf) -> frozenset[FieldType]:
    """Return the declared types to which a condition can be applied; none for a condition that fits all."""
    match condition:
        case nodes.Equals(_, value):
            return _types_of(value)
        case nodes.In(_, values):
            return frozenset().union(*map(_types_of, values))
        case nodes.Range():
            return frozenset({FieldType.NUMBER})
        case nodes.DateRange():
            return frozenset({FieldType.DATETIME})
        case nodes.FullText():
            return frozenset({FieldType.TEXT, FieldType.KEYWORD})
        case nodes.GeoRadius() | nodes.GeoBox():
            return frozenset({FieldType.GEO})
        case nodes.Empty():
            return frozenset()


def _types_of(value: Scalar) -> frozenset[FieldType]:
    match value:
        case bool():
            return frozenset({FieldType.BOOL})
        case str():
            return frozenset({FieldType.KEYWORD, FieldType.TEXT})
        case _:
            return frozenset({FieldType.NUMBER})


def check_types(condition: Filter, declared: Mapping[str, FieldType]) -> None:
    """Raise `InvalidInput` naming the first field that is declared as another type than the condition needs.

    Undeclared fields, and those inside `nested`, accept every condition.
    """
    match condition:
        case nodes.AllOf(of) | nodes.AnyOf(of) | nodes.AtLeast(_, of):
            for part in of:
                check_types(part, declared)
        case nodes.Not(of):
            check_types(of, declared)
        case nodes.Nested(field):
            if field in declared:
                raise _mistyped(field, "objects in a list", declared[field])
        case _:
            accepted, type_ = _accepted_types(condition), declared.get(condition.field)
            if accepted and type_ is not None and type_ not in accepted:
                raise _mistyped(condition.field, " or ".join(sorted(accepted)), type_)


def _mistyped(field: str, used_as: str, declared: FieldType) -> InvalidInput:
    return InvalidInput(
        f"field {field} is declared {declared}, the filter asks for {used_as}",
        field=field,
        value=used_as,
        limit=declared,
    )
