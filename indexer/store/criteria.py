"""The criteria by which a ranking orders: a vector, words, or latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.types import Float32

# Point id and score, best first; equal scores by point id. Not document ids: those are in the payloads, and reading a
# thousand of
# them takes an engine longer than the ranking.
Ranked = Sequence[tuple[str, float]]


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


Criterion = Nearest | WordMatch | LateInteraction
