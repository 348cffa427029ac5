"""The criteria by which a ranking orders: a vector, words, latents, an embedding and words fused, or one of them
boosted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from indexer.filters import Filter
from model.types import Float32

# Point id and score, best first; equal scores by point id. Not document ids: those are in the payloads, and reading a
# thousand of them takes an engine longer than the ranking.
Ranked = Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Place:
    """One document of a ranking. `words` is its BM25 score, None where words do not count or none of the query is in
    it; `share` is the part of `score` that comes from words."""

    point_id: str
    score: float
    words: float | None = None
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Nearest:
    """Order by the cosine of the embeddings."""

    vector: Float32  # (D,)


@dataclass(frozen=True, slots=True)
class WordMatch:
    """Order by BM25 over the words of the text; a document without any of them is left out."""

    text: str


@dataclass(frozen=True, slots=True)
class LateInteraction:
    """The `candidates` nearest by embedding, ranked by MaxSim: the mean over the query's latents of the best cosine
    with one of the document's. (MaxSim as published is the sum; the mean keeps the scale of a cosine, and the
    order.)
    """

    vector: Float32  # (D,)
    latents: Float32  # (K, D)
    candidates: int


@dataclass(frozen=True, slots=True)
class ReciprocalRanks:
    """Fuse by Σ 1 / (k + rank) over the rankings that contain the document, with ranks from 1."""

    k: int


@dataclass(frozen=True, slots=True)
class WeightedScores:
    """Fuse by (1 - weight) · embedding + weight · words, each scaled to between 0 and 1."""

    weight: float


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Order by the fusion of two rankings, of each the best `candidates`."""

    embedding: Nearest | LateInteraction
    words: WordMatch
    fusion: ReciprocalRanks | WeightedScores
    candidates: int


@dataclass(frozen=True, slots=True)
class FilterBoost:
    """Adds the weight where a filter is fulfilled."""

    condition: Filter
    weight: float


@dataclass(frozen=True, slots=True)
class FieldBoost:
    """Adds the weight times the number in a field, of a list its greatest."""

    field: str
    weight: float


class Curve(StrEnum):
    """How a decay falls. All are ½ at the distance `scale`."""

    EXPONENTIAL = "exp"
    GAUSSIAN = "gauss"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class DecayBoost:
    """Adds the weight times what is left of 1 at the distance of a field from `origin`, of a list that of the nearest
    value. With `times` the field holds times, and `scale` and `origin` are in Unix seconds."""

    field: str
    weight: float
    curve: Curve
    scale: float
    origin: float
    times: bool = False


Boost = FilterBoost | FieldBoost | DecayBoost


@dataclass(frozen=True, slots=True)
class Boosted:
    """The first `candidates` of another ranking, ordered by their score and what their metadata add to it."""

    ranking: Nearest | WordMatch | LateInteraction | Hybrid
    boosts: tuple[Boost, ...]
    candidates: int


Criterion = Nearest | WordMatch | LateInteraction | Hybrid | Boosted
