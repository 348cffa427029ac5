"""Boosts in Qdrant Edge's terms: a formula over the score of a prefetch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import qdrant_edge as qe

from indexer.filters import DateRange, FieldType, Filter, Range
from indexer.store.criteria import Boost, Curve, DecayBoost, FieldBoost, FilterBoost
from indexer.store.edge.filters import to_edge
from indexer.store.payload import path_of

_Expression: Any = qe.Expression
_CURVES = {
    Curve.EXPONENTIAL: qe.DecayKind.Exp,
    Curve.GAUSSIAN: qe.DecayKind.Gauss,
    Curve.LINEAR: qe.DecayKind.Lin,
}
_EARLIEST = datetime.min.replace(tzinfo=UTC)


def formula(boosts: Sequence[Boost], indexed: Mapping[str, FieldType]) -> qe.Formula | None:
    """Return the formula of a score and its boosts, None where a field has no index. The engine fails to compute it for
    a document whose field is a list of several values, or without an index one of another type."""
    terms, defaults = [_Expression.Variable("$score")], {}
    for boost in boosts:
        weight = _Expression.Constant(boost.weight)
        match boost:
            case FilterBoost(condition):
                terms.append(_Expression.Mult([weight, _Expression.Condition(to_edge(condition))]))
            case FieldBoost(field):
                if indexed.get(path_of(field)) != FieldType.NUMBER:
                    return None
                defaults[path_of(field)] = 0.0
                terms.append(_Expression.Mult([weight, _Expression.Variable(path_of(field))]))
            case DecayBoost(field, times=times):
                if indexed.get(path_of(field)) != (FieldType.DATETIME if times else FieldType.NUMBER):
                    return None
                # Nothing for a document without a value, for which the engine leaves a product at the first zero.
                terms.append(_Expression.Mult([weight, _Expression.Condition(_has_value(boost)), _decay(boost)]))
    return qe.Formula(_Expression.Sum(terms), defaults)


def _has_value(boost: DecayBoost) -> qe.Filter:
    every: Filter = DateRange(boost.field, gte=_EARLIEST)
    if not boost.times:
        every = Range(boost.field, gte=-sys.float_info.max)
    return to_edge(every)


def _decay(boost: DecayBoost) -> Any:
    path = path_of(boost.field)
    value = _Expression.DatetimeKey(path) if boost.times else _Expression.Variable(path)
    return _Expression.Decay(_CURVES[boost.curve], value, _Expression.Constant(boost.origin), 0.5, boost.scale)
