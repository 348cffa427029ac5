"""Which payload index a filter wants on which path, decided alike for both Qdrant engines.

A field is indexed when a filter first names it. An index answers the conditions of its kind and the engine reads the
payloads for all others, so what is selected never changes; with one exception. An index of numbers answers questions
about times, and one of times those about numbers, both wrongly. A field asked for both gets a keyword index, which
answers neither and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from indexer.filters import (
    AllOf,
    AnyOf,
    AtLeast,
    DateRange,
    Empty,
    Equals,
    FieldType,
    Filter,
    FullText,
    GeoBox,
    GeoRadius,
    In,
    Nested,
    Not,
    Range,
    Scalar,
    whole_number_beyond_doubles,
)
from indexer.store.payload import path_of, terms_path_of

MAX_INDEXES = 16  # of one collection; each costs memory and, in Edge, 10 us a point to make
_CLASHING = {FieldType.NUMBER, FieldType.DATETIME}


def missing(condition: Filter, present: Mapping[str, FieldType]) -> dict[str, FieldType]:
    """The indexes to make by path before the condition is asked, given those there are. One already there is to be
    replaced."""
    made: dict[str, FieldType] = {}
    for path, field_type in _wanted(condition):
        now = made.get(path) or present.get(path)
        if now is None and len(present.keys() | made.keys()) < MAX_INDEXES:
            made[path] = field_type
        elif now is not None and {now, field_type} == _CLASHING:
            made[path] = FieldType.KEYWORD
    return made


def unanswered(condition: Filter, indexed: Mapping[str, FieldType]) -> int:
    """How many of its conditions no index answers: for each of them an engine reads the payload of every point that it
    looks at."""
    match condition:
        case AllOf(of) | AnyOf(of) | AtLeast(_, of):
            return sum(unanswered(part, indexed) for part in of)
        case Not(of):
            return unanswered(of, indexed)
        case Nested():
            return 1
        case Empty(field):
            return int(path_of(field) not in indexed)
        case FullText(field):
            return int(path_of(field) not in indexed or terms_path_of(field) not in indexed)
        case In(field, values):  # of words it is one condition, of numbers one each
            values_of_types = {"" if isinstance(value, str) else value for value in values}
            return sum(unanswered(Equals(field, value), indexed) for value in values_of_types)
        case _:
            return int(indexed.get(path_of(condition.field)) not in _kinds(condition))


def answered(condition: Filter, indexed: Mapping[str, FieldType]) -> AllOf:
    """What must hold besides, and indexes answer: only points for which it does are looked at."""
    conditions = condition.of if isinstance(condition, AllOf) else (condition,)
    parts = [answered(part, indexed) if isinstance(part, AllOf) else part for part in conditions]
    return AllOf(tuple(part for part in parts if not unanswered(part, indexed)))


def _wanted(condition: Filter) -> Iterator[tuple[str, FieldType]]:
    match condition:
        case AllOf(of) | AnyOf(of) | AtLeast(_, of):
            for part in of:
                yield from _wanted(part)
        case Not(of):
            yield from _wanted(of)
        case Nested():
            pass  # with an index on the inside of a list, Edge 0.9 overlooks elements whose field is empty
        case _:
            for kind in _kinds(condition):
                yield path_of(condition.field), kind
            if isinstance(condition, FullText):
                yield terms_path_of(condition.field), FieldType.KEYWORD


def _kinds(condition: Equals | In | Range | DateRange | Empty | FullText | GeoRadius | GeoBox) -> list[FieldType]:
    match condition:
        case Equals(_, value):
            return _kinds_for((value,))
        case In(_, values):
            return _kinds_for(values)
        case Range():
            return [FieldType.NUMBER]
        case DateRange():
            return [FieldType.DATETIME]
        case FullText():
            return [FieldType.TEXT]
        case GeoRadius() | GeoBox():
            return [FieldType.GEO]
        case Empty():
            return []


def _kinds_for(values: tuple[Scalar, ...]) -> list[FieldType]:
    """Of a number it is that of doubles: Qdrant's integer index would answer ranges and overlook 2.5."""
    kinds = set()
    for value in values:
        if isinstance(value, bool):
            kinds.add(FieldType.BOOL)
        elif isinstance(value, str):
            kinds.add(FieldType.KEYWORD)
        elif not whole_number_beyond_doubles(value):
            kinds.add(FieldType.NUMBER)
    return sorted(kinds)
