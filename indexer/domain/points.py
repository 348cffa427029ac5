"""The points that a store holds for documents, and the hits of a search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.domain.documents import Metadata
from model.types import Float32, Shares

# The vector of a point that was read without it.
NO_VECTOR: Float32 = np.empty(0, np.float32)
# Of one document: passages of its text and images. More would make one document as slow to search as a collection.
MAX_PARTS = 64
# What both engines take as the vectors of one point.
MAX_VALUES = 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a document that has an embedding of its own: a passage of its text, one of its images, or both.

    `start` and `end` count the characters of the document's text, `image` its images from 0. Each is None where the
    part has no text or no image.
    """

    start: int | None = None
    end: int | None = None
    image: int | None = None
    shares: Shares | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One document as it stands in the store. A document of one part has its embedding as `vector`, and no `parts`.

    A document of several parts has a row of `part_vectors` for each of `parts`; `vector` stands for all of them
    (`mean_of`). The shares of such a document are those of its first part.
    """

    document_id: str
    vector: Float32  # (D,), or `NO_VECTOR`
    text: str | None
    image_digest: str | None
    metadata: Metadata
    content_hash: str  # `stamped`: of text, original image and metadata, and of the model. Unchanged means skip
    shares: Shares | None = None  # None where the model gives none
    latents: Float32 | None = None  # (K, D) of each part, one after the other; read back only when asked for
    more_images: tuple[str, ...] = ()  # the digests of the images behind the first
    parts: tuple[Part, ...] = ()
    part_vectors: Float32 | None = None  # (P, D); None for a document of one part

    @property
    def vectors(self) -> Float32:
        """The embeddings of the parts, (P, D)."""
        return self.vector[None] if self.part_vectors is None else self.part_vectors

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of all images."""
        return (() if self.image_digest is None else (self.image_digest,)) + self.more_images


def mean_of(vectors: Float32) -> Float32:
    """Return the vector (D,) that stands for the parts (P, D) of a document: their mean, of unit length. Where they
    cancel out it is the first."""
    first: Float32 = vectors[0]
    mean = vectors.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(mean)
    return first if len(vectors) == 1 or length < 1e-6 else (mean / length).astype(np.float32)


def most_parts(dimensions: int, latents: int) -> int:
    """Return how many parts a document may have, so that a point can hold their vectors."""
    return max(1, min(MAX_PARTS, MAX_VALUES // (dimensions * max(1, latents))))


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
    more_images: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    best_part: int | None = None  # of `parts`: the one nearest to the query

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of all images."""
        return (() if self.image_digest is None else (self.image_digest,)) + self.more_images
