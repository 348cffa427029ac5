"""The boosts of a search as the store takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from indexer import filters
from indexer.filters import FieldType
from indexer.filters.values import read_moment
from indexer.store.criteria import Boost, Curve, DecayBoost, FieldBoost, FilterBoost
from model.errors import InvalidInput
from service.schemas.boosts import BoostDecayIn, BoostFieldIn, BoostFilterIn, BoostIn, duration_s

# Documents that are boosted, so that all pages are windows into the same ranking, which ends with them. Reading their
# metadata takes some 10 ms, where the engine cannot compute the boosts.
CANDIDATES = 1_000


def boosts_of(bodies: Sequence[BoostIn], declared: Mapping[str, FieldType]) -> tuple[Boost, ...]:
    """Return the boosts of a search. Raise `InvalidInput` for a field that is declared as another type."""
    return tuple(_boost(body, declared) for body in bodies)


def _boost(body: BoostIn, declared: Mapping[str, FieldType]) -> Boost:
    match body:
        case BoostFilterIn(filter=condition, weight=weight):
            filters.check_types(condition, declared)
            return FilterBoost(condition, weight)
        case BoostFieldIn(field=field, weight=weight):
            _check_field(field, FieldType.NUMBER, declared)
            return FieldBoost(field, weight)
        case BoostDecayIn():
            return _decay(body, declared)


def _decay(body: BoostDecayIn, declared: Mapping[str, FieldType]) -> DecayBoost:
    times = isinstance(body.scale, str)
    _check_field(body.field, FieldType.DATETIME if times else FieldType.NUMBER, declared)
    if isinstance(body.scale, str):
        scale = duration_s(body.scale) or 1.0
        origin = (read_moment(str(body.origin)) or datetime.now(UTC)).timestamp()
    else:
        scale, origin = body.scale, float(body.origin or 0.0)
    return DecayBoost(body.field, body.weight, Curve(body.decay), scale, origin, times)


def _check_field(field: str, needed: FieldType, declared: Mapping[str, FieldType]) -> None:
    filters.check_field(field, "boost")
    if declared.get(field, needed) != needed:
        raise InvalidInput(
            f"field {field} is declared {declared[field]}, the boost asks for {needed}",
            field="boost",
            value=needed,
            limit=declared[field],
        )
