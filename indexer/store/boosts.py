"""What the metadata of a document add to its score, in plain Python: what decides where the engine does not, and what
it is tested against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from indexer.domain.documents import Metadata
from indexer.filters import elements
from indexer.filters.meaning import matches
from indexer.filters.values import is_number, read_moment
from indexer.store.base import SearchWindow
from indexer.store.criteria import Boost, Boosted, Curve, DecayBoost, FieldBoost, FilterBoost, Place
from indexer.store.indexes import fields_of

_CACHED_TIMES = 16_384
_LARGEST = 1e300


def read_fields(boosts: Sequence[Boost]) -> list[str]:
    """Return the metadata fields that boosts read."""
    fields: list[str] = []
    for boost in boosts:
        fields += fields_of(boost.condition) if isinstance(boost, FilterBoost) else [boost.field]
    return fields


def additions(boosts: Sequence[Boost], metadata: Metadata) -> tuple[float, ...]:
    """Return what each boost adds to the score of a document with this metadata."""
    return tuple(_finite(_addition(boost, metadata)) for boost in boosts)


def fields_of_several_values(boosts: Sequence[Boost], documents: Iterable[Metadata]) -> set[str]:
    """Return the fields of which some document has several numbers or times."""
    fields: set[str] = set()
    for metadata in documents:
        for boost in boosts:
            if not isinstance(boost, FilterBoost) and len(_values(boost, metadata)) > 1:
                fields.add(boost.field)
    return fields


def candidates_of(criterion: Boosted, window: SearchWindow) -> SearchWindow:
    """Return the window of the ranking that is boosted. The threshold is of the boosted scores."""
    return replace(window, limit=criterion.candidates, offset=0, score_threshold=None)


def boosted(
    criterion: Boosted, ranking: Sequence[Place], metadata: Mapping[str, Metadata], window: SearchWindow
) -> list[Place]:
    """Return the window of the boosted ranking, without the documents whose metadata are missing: they were deleted
    meanwhile."""
    places = [_boosted(place, criterion, metadata[place.point_id]) for place in ranking if place.point_id in metadata]
    if window.score_threshold is not None:
        places = [place for place in places if place.score >= window.score_threshold]
    return sorted(places, key=lambda place: (-place.score, place.point_id))[window.offset : window.end]


def _boosted(place: Place, criterion: Boosted, metadata: Metadata) -> Place:
    score = _finite(place.score + math.fsum(additions(criterion.boosts, metadata)))
    return Place(place.point_id, score, place.words, place.share * place.score / score if score else 0.0)


def _addition(boost: Boost, metadata: Metadata) -> float:
    match boost:
        case FilterBoost(condition, weight):
            return weight if matches(condition, metadata) else 0.0
        case FieldBoost(field, weight):
            return weight * max(_numbers(metadata, field), default=0.0)
        case DecayBoost(_, weight, curve, scale, origin):
            distances = [abs(value - origin) for value in _values(boost, metadata)]
            return weight * _share(curve, min(distances) / scale) if distances else 0.0


def _values(boost: FieldBoost | DecayBoost, metadata: Metadata) -> list[float]:
    by_time = isinstance(boost, DecayBoost) and boost.times
    return _times(metadata, boost.field) if by_time else _numbers(metadata, boost.field)


def _share(curve: Curve, distance: float) -> float:
    """Return what is left of 1 at a distance in scales."""
    match curve:
        case Curve.EXPONENTIAL:
            return math.pow(2.0, -min(distance, 1_000.0))
        case Curve.GAUSSIAN:
            return math.pow(2.0, -min(distance * distance, 1_000.0))
        case Curve.LINEAR:
            return max(0.0, 1.0 - distance / 2)


def _numbers(metadata: Metadata, name: str) -> list[float]:
    return [float(value) for value in elements(metadata, name) if is_number(value)]


def _times(metadata: Metadata, name: str) -> list[float]:
    texts = [value for value in elements(metadata, name) if isinstance(value, str)]
    return [seconds for text in texts if (seconds := _seconds(text)) is not None]


@lru_cache(_CACHED_TIMES)
def _seconds(text: str) -> float | None:
    """Return a time as Unix seconds, None for any other text. Reading one takes 5 µs, and searches read the same."""
    moment = read_moment(text)
    return None if moment is None else moment.timestamp()


def _finite(score: float) -> float:
    """Return a score that JSON can write: a weight times a number may be out of range."""
    return max(-_LARGEST, min(_LARGEST, score)) if score == score else 0.0
