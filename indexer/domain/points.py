"""The points that a store holds for documents, and the hits of a search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.domain.documents import Metadata
from model.types import Float32, Shares

# The vector of a point that was read without it.
NO_VECTOR: Float32 = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Point:
    """One document as it stands in the store."""

    document_id: str
    vector: Float32  # (D,), or `NO_VECTOR`
    text: str | None
    image_digest: str | None
    metadata: Metadata
    content_hash: str  # `stamped`: of text, original image and metadata, and of the model. Unchanged means skip
    shares: Shares | None = None  # None where the model gives none
    latents: Float32 | None = None  # (K, D); read back only when asked for


@dataclass(frozen=True, slots=True)
class Lexical:
    """The effect of the query's words on a hit: its BM25 score, and their share of the hit's score (1: all of it)."""

    score: float
    share: float


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents in the order of their points, and what to ask for next: None after the last."""

    document_ids: tuple[str, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class MetadataChange:
    """The metadata that a document has from now on, and the content hash that goes with it."""

    document_id: str
    metadata: Metadata
    content_hash: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some points in their order, and what to ask for next: None after the last."""

    points: tuple[Point, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; `score` is the cosine of query and document embedding unless the search had another mode.
    `vector` only when asked for."""

    document_id: str
    score: float
    text: str | None
    image_digest: str | None
    metadata: Metadata
    vector: Float32 | None = None
    shares: Shares | None = None
    lexical: Lexical | None = None
    # What each boost of the search added to the score.
    boosts: tuple[float, ...] = ()
    # With diversity: the greatest cosine with a hit before it, None for those that were not compared.
    closest: float | None = None
