"""The payload indexes of declared fields, and the conditions that they answer, alike for both Qdrant engines.

A field is indexed when it is declared, and never by a search. Where no index answers a condition, the engine reads the
metadata of every document that the indexed conditions leave. What is selected is the same either way, with one
exception: an index of numbers answers questions about times, and one of times those about numbers, both wrongly. Those
are refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NoReturn

from indexer.errors import IndexUnfinished
from indexer.filters import FieldType, Filter, Leaf, Scalar, nodes
from indexer.store.columns import FieldUse
from indexer.store.numbers import term_number
from indexer.store.payload import path_of, terms_path_of
from model.errors import InvalidInput

# Documents whose metadata a filter may read where no index answers it: about 0.7 s a condition (docs/sizing.md).
READABLE_DOCUMENTS = 100_000

_NARROW = "narrow the search with a condition on another declared field"
_CLASHING = {FieldType.NUMBER, FieldType.DATETIME}
# By path.
Indexes = Mapping[str, FieldType]


def declared_indexes(fields: Mapping[str, FieldType]) -> dict[str, FieldType]:
    """Return the indexes by path that declared fields want.

    Words and large numbers are looked up among the search terms: the index of a text is theirs alone.
    """
    indexes: dict[str, FieldType] = {}
    for field, kind in fields.items():
        if kind != FieldType.TEXT:
            indexes[path_of(field)] = kind
        if kind in (FieldType.TEXT, FieldType.NUMBER):
            indexes[terms_path_of(field)] = FieldType.KEYWORD
    return indexes


def unfinished(fields: Mapping[str, FieldType], indexed: Indexes) -> list[str]:
    """Return the declared fields whose indexes are not all there, in their order."""
    return [
        field
        for field, kind in fields.items()
        if any(indexed.get(path) != of_path for path, of_path in declared_indexes({field: kind}).items())
    ]


def check_kinds(condition: Filter, indexed: Indexes) -> None:
    """Raise `InvalidInput` for a condition that an index would answer wrongly."""
    for leaf in _leaves(condition):
        for path, kind in _needed(leaf):
            if kind is not None and {kind, indexed.get(path)} == _CLASHING:
                raise InvalidInput(
                    f"field {leaf.field} is indexed as {indexed[path]}, the filter asks for {kind}",
                    field=leaf.field,
                    value=kind,
                    limit=indexed[path],
                )


def refuse_reading(
    condition: Filter, indexed: Indexes, coming: Collection[str], documents: int, limit: int
) -> NoReturn:
    """Raise the error for a filter that would read the metadata of too many documents. `coming` are the paths of
    indexes that are being built.
    """
    leaf, path, kind = next(_unanswered(condition, indexed))
    reads = _reads("the filter", leaf.field, documents)
    if path in coming:
        raise _being_built(reads)
    if isinstance(leaf, nodes.Nested):
        advice = f"Conditions inside nested have no index: {_NARROW}"
    else:
        advice = _advice(leaf.field, kind or FieldType.KEYWORD, indexed)
    raise _too_many(reads, advice, leaf.field, documents, limit)


def index_for(use: FieldUse, indexed: Indexes) -> FieldType | None:
    """Return the type of the index that answers a use of a field, None without one."""
    kind = indexed.get(path_of(use.field))
    return kind if kind in use.indexes else None


def refuse_use(use: FieldUse, indexed: Indexes, coming: Collection[str], documents: int, limit: int) -> NoReturn:
    """Raise the error for a sort, a facet or the like that would read the metadata of too many documents."""
    reads = _reads(use.purpose, use.field, documents)
    if path_of(use.field) in coming:
        raise _being_built(reads)
    raise _too_many(reads, _advice(use.field, use.indexes[0], indexed), use.field, documents, limit)


def _reads(purpose: str, field: str, documents: int) -> str:
    return f"{purpose} has no index for field {field} and would read the metadata of {documents} documents"


def _being_built(reads: str) -> IndexUnfinished:
    return IndexUnfinished(f"{reads}: that index is being built. GET /collections/NAME says when it is ready")


def _too_many(reads: str, advice: str, field: str, documents: int, limit: int) -> InvalidInput:
    return InvalidInput(f"{reads}, the limit is {limit}. {advice}", field=field, value=documents, limit=limit)


def _advice(field: str, kind: FieldType, indexed: Indexes) -> str:
    if not indexed.keys().isdisjoint((path_of(field), terms_path_of(field))):
        return f"The field is declared as another type, and that stays: {_NARROW}, or fill a new collection"
    declaration = json.dumps({"indexes": {field: kind}})
    return f"Declare it with PATCH /collections/NAME {declaration}, or {_NARROW}"


def unanswered(condition: Filter, indexed: Indexes) -> int:
    """Count the conditions that no index answers: for each of them an engine reads the payload of every point that it
    looks at."""
    return sum(1 for _ in _unanswered(condition, indexed))


def answered(condition: Filter, indexed: Indexes) -> nodes.AllOf:
    """Return the parts of a condition that indexes answer; only points that satisfy them are read."""
    conditions = condition.of if isinstance(condition, nodes.AllOf) else (condition,)
    parts = [answered(part, indexed) if isinstance(part, nodes.AllOf) else part for part in conditions]
    return nodes.AllOf(tuple(part for part in parts if not unanswered(part, indexed)))


def _unanswered(condition: Filter, indexed: Indexes) -> Iterator[tuple[Leaf | nodes.Nested, str, FieldType | None]]:
    """Yield the conditions that no index answers, each with a path that has none and the index that it needs."""
    for leaf in _leaves(condition):
        for path, kind in _needed(leaf):
            if path not in indexed or (kind is not None and indexed[path] != kind):
                yield leaf, path, _declarable(leaf)


def fields_of(condition: Filter) -> list[str]:
    """Return the fields that a condition looks at."""
    return [leaf.field for leaf in _leaves(condition)]


def _leaves(condition: Filter) -> Iterator[Leaf | nodes.Nested]:
    match condition:
        case nodes.AllOf(of) | nodes.AnyOf(of) | nodes.AtLeast(_, of):
            for part in of:
                yield from _leaves(part)
        case nodes.Not(of):
            yield from _leaves(of)
        case _:
            yield condition


def _needed(leaf: Leaf | nodes.Nested) -> Sequence[tuple[str, FieldType | None]]:
    """Return the indexes, by path, that together answer a condition; any index tells whether a field is empty."""
    path = path_of(leaf.field)
    match leaf:
        case nodes.Nested():
            # With an index on the inside of a list, Edge 0.9 overlooks elements whose field is empty.
            return [(f"{path}[]", None)]
        case nodes.Equals(field, value):
            return [_needed_for(field, value)]
        case nodes.In(field, values):
            # The engines are asked for all texts at once, and for each number.
            texts = [value for value in values if isinstance(value, str)]
            return [_needed_for(field, value) for value in values if not isinstance(value, str)] + [
                _needed_for(field, text) for text in texts[:1]
            ]
        case nodes.Range():
            return [(path, FieldType.NUMBER)]
        case nodes.DateRange():
            return [(path, FieldType.DATETIME)]
        case nodes.FullText(field):
            return [(terms_path_of(field), FieldType.KEYWORD)]
        case nodes.GeoRadius() | nodes.GeoBox():
            return [(path, FieldType.GEO)]
        case nodes.Empty():
            return [(path, None)]


def _needed_for(field: str, value: Scalar) -> tuple[str, FieldType]:
    """Qdrant's integer index would answer ranges and overlook 2.5, so that of a number is of doubles."""
    if isinstance(value, bool):
        return path_of(field), FieldType.BOOL
    if isinstance(value, str):
        return path_of(field), FieldType.KEYWORD
    if term_number(value) is not None:
        return terms_path_of(field), FieldType.KEYWORD
    return path_of(field), FieldType.NUMBER


def _declarable(leaf: Leaf | nodes.Nested) -> FieldType | None:
    """Return the type that a field would have to be declared as; None for one that any will do."""
    match leaf:
        case nodes.FullText():
            return FieldType.TEXT
        case nodes.Equals(_, value) if term_number_of(value):
            return FieldType.NUMBER
        case nodes.In(_, values) if any(term_number_of(value) for value in values):
            return FieldType.NUMBER
        case nodes.Nested():
            return None
        case _:
            return _needed(leaf)[0][1]


def term_number_of(value: Scalar) -> bool:
    return not isinstance(value, bool | str) and term_number(value) is not None
