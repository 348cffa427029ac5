"""A ranking whose first documents are ordered by their score and what their metadata add to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from indexer import filters
from indexer.domain.documents import point_id
from indexer.domain.points import Hit
from indexer.filters import FieldType, Filter, elements
from indexer.filters.meaning import matches
from indexer.filters.values import is_number, read_moment
from indexer.store.base import Points
from indexer.store.criteria import Place
from indexer.store.indexes import fields_of
from model.errors import InvalidInput
from service.schemas.boosts import BoostDecayIn, BoostFieldIn, BoostFilterIn, BoostIn, duration_s
from service.search.modes import RankedSearch, in_store

# Documents that are boosted, so that all pages are windows into the same ranking, which ends with them. Reading their
# metadata takes some 10 ms.
CANDIDATES = 1_000

_CACHED_TIMES = 16_384

# What a boost adds to the score of a document with this metadata.
Addition = Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True, slots=True)
class Boosts:
    """The boosts of one search."""

    additions: Sequence[Addition]
    # That they read.
    fields: Sequence[str]


def boosts_of(bodies: Sequence[BoostIn], declared: Mapping[str, FieldType]) -> Boosts:
    """Return the boosts of a search. Raise `InvalidInput` for a field that is declared as another type."""
    additions: list[Addition] = []
    fields: list[str] = []
    for boost in bodies:
        match boost:
            case BoostFilterIn(filter=condition):
                filters.check_types(condition, declared)
                fields += fields_of(condition)
            case BoostFieldIn() | BoostDecayIn():
                _check_field(boost, declared)
                fields.append(boost.field)
        additions.append(_addition(boost))
    return Boosts(additions, fields)


def _check_field(boost: BoostFieldIn | BoostDecayIn, declared: Mapping[str, FieldType]) -> None:
    filters.check_field(boost.field, "boost")
    times = isinstance(boost, BoostDecayIn) and isinstance(boost.scale, str)
    needed = FieldType.DATETIME if times else FieldType.NUMBER
    if declared.get(boost.field, needed) != needed:
        raise InvalidInput(
            f"field {boost.field} is declared {declared[boost.field]}, the boost asks for {needed}",
            field="boost",
            value=needed,
            limit=declared[boost.field],
        )


def _addition(boost: BoostIn) -> Addition:
    match boost:
        case BoostFilterIn(filter=condition, weight=weight):
            return lambda metadata: weight if matches(condition, metadata) else 0.0
        case BoostFieldIn(field=name, weight=weight):
            return lambda metadata: weight * max(_numbers(metadata, name), default=0.0)
        case BoostDecayIn():
            return _decayed(boost)


def _decayed(boost: BoostDecayIn) -> Addition:
    name, weight, curve = boost.field, boost.weight, _CURVES[boost.decay]
    if isinstance(boost.scale, str):
        scale = duration_s(boost.scale) or 1.0
        origin = (read_moment(str(boost.origin)) or datetime.now(UTC)).timestamp()
        read = _times
    else:
        scale, origin, read = boost.scale, float(boost.origin or 0.0), _numbers

    def addition(metadata: Mapping[str, Any]) -> float:
        distances = [abs(value - origin) for value in read(metadata, name)]
        return weight * curve(min(distances) / scale) if distances else 0.0

    return addition


def _exponential(distance: float) -> float:
    return math.pow(2.0, -min(distance, 1_000.0))


def _gaussian(distance: float) -> float:
    return math.pow(2.0, -min(distance * distance, 1_000.0))


def _linear(distance: float) -> float:
    return max(0.0, 1.0 - distance / 2)


_CURVES = {"exp": _exponential, "gauss": _gaussian, "linear": _linear}


def _numbers(metadata: Mapping[str, Any], name: str) -> list[float]:
    return [float(value) for value in elements(metadata, name) if is_number(value)]


def _times(metadata: Mapping[str, Any], name: str) -> list[float]:
    texts = [value for value in elements(metadata, name) if isinstance(value, str)]
    return [seconds for text in texts if (seconds := _seconds(text)) is not None]


@lru_cache(_CACHED_TIMES)
def _seconds(text: str) -> float | None:
    """Return a time as Unix seconds, None for any other text. Reading one takes 5 µs, and searches read the same."""
    moment = read_moment(text)
    return None if moment is None else moment.timestamp()


@dataclass(slots=True)
class BoostedRanking:
    """The first candidates of a ranking by their boosted scores: a `paging.Ranking`. For one search.

    `score_threshold` is of the boosted scores, so the ranking has none.
    """

    ranking: RankedSearch
    points: Points
    boosts: Boosts
    score_threshold: float | None = None
    _additions: dict[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    _ranked: list[Place] | None = field(default=None, repr=False)

    async def window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> list[Hit]:
        if extra_condition is None:
            return await self.read(await self.places(offset, limit))
        ranked = await self._rank(extra_condition)
        return await self.read(ranked[offset : offset + limit])

    async def places(self, offset: int, limit: int) -> Sequence[Place]:
        if self._ranked is None:
            self._ranked = await self._rank(None)
        return self._ranked[offset : offset + limit]

    async def read(self, places: Sequence[Place]) -> list[Hit]:
        hits = await self.ranking.read(places)
        return [replace(hit, boosts=self._additions[point_id(hit.document_id)]) for hit in hits]

    async def _rank(self, extra_condition: Filter | None) -> list[Place]:
        places = await self.ranking.places(0, CANDIDATES, extra_condition)
        with in_store(self.ranking.clock):
            rows = await self.points.columns.rows([place.point_id for place in places], self.boosts.fields)
        metadata = {row.point_id: row.metadata for row in rows}
        boosted = []
        for place in places:
            if place.point_id not in metadata:
                continue  # deleted since
            added = tuple(_finite(addition(metadata[place.point_id])) for addition in self.boosts.additions)
            self._additions[place.point_id] = added
            score = _finite(place.score + math.fsum(added))
            share = place.share * place.score / score if score else 0.0
            if self.score_threshold is None or score >= self.score_threshold:
                boosted.append(replace(place, score=score, share=share))
        return sorted(boosted, key=lambda place: (-place.score, place.point_id))


def _finite(score: float) -> float:
    """Return a score that JSON can write: a weight times a number may be out of range."""
    return max(-_LARGEST, min(_LARGEST, score)) if score == score else 0.0


_LARGEST = 1e300
