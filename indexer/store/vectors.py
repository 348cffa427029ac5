"""The vectors that both Qdrant engines keep of a point, and what a collection must hold for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.domain.points import MAX_VALUES, Point, mean_of
from indexer.store.base import Layout
from indexer.store.bm25 import SIMPLE, Words, check_language, document_words
from model.errors import Conflict, InvalidInput
from model.types import Float32

DENSE = ""  # Qdrant's own name of the vector that has none
LATENTS = "latents"
PARTS = "parts"  # of documents with several, where the layout has them apart
WORDS = "words_"


def unit(vector: Float32, dimensions: int, owner: str) -> Float32:
    """Return the vector at length 1. It is computed in float64, so that no finite input overflows. Qdrant would store
    NaN and zero."""
    if vector.shape != (dimensions,):
        raise InvalidInput(
            f"vector of {owner} has shape {vector.shape}, the collection's is ({dimensions},)", limit=dimensions
        )
    exact = vector.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    if not np.isfinite(norm) or norm == 0:
        raise InvalidInput(f"vector of {owner} has norm {norm}, which must be finite and over 0", value=str(norm))
    return (exact / norm).astype(np.float32)


def unit_rows(rows: Float32 | None, dimensions: int, owner: str, kind: str = "latents") -> Float32:
    """Return latents or the vectors of parts (K, D), each at length 1. Raises `InvalidInput` if there are none."""
    if rows is None or rows.ndim != 2 or not len(rows):
        shape = None if rows is None else rows.shape
        raise InvalidInput(
            f"{kind} of {owner} have shape {shape}, the collection's are (K, {dimensions})", limit=dimensions
        )
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    unfit = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
    if rows.shape[1] != dimensions or unfit.any():
        unit(rows[int(unfit.argmax())], dimensions, owner)
    unit_length: Float32 = (exact / norms).astype(np.float32)
    return unit_length


def vectors_of(point: Point, layout: Layout, embedding: Float32) -> dict[str, Float32 | Words]:
    """Return the vectors that a point is written with, by name: its embedding as `dense_rows` gives it, its latents
    (K, D) and its words. Raises `InvalidInput`. A text without words has no sparse vector.
    """
    owner = point.document_id
    vectors: dict[str, Float32 | Words] = {DENSE: embedding}
    if layout.latents:
        vectors[LATENTS] = unit_rows(point.latents, layout.dimensions, owner)
    if point.text and (words := document_words(point.text, layout.language)).ids:
        vectors[words_name(layout.language)] = words
    return vectors


def dense_rows(points: Sequence[Point], layout: Layout) -> Float32 | list[Float32]:
    """Return the embeddings of points at length 1: a row of each (N, D), or, where documents may have parts, the rows
    of each (P, D). Where those are apart, the latter only if a document has several."""
    whole = all(point.part_vectors is None and point.vector.shape == (layout.dimensions,) for point in points)
    if points and whole:
        # All at once: a tenth of the time.
        exact = np.array([point.vector for point in points], np.float64)
        norms = np.linalg.norm(exact, axis=1, keepdims=True)
        if np.isfinite(norms).all() and (norms > 0).all():
            unit_length: Float32 = (exact / norms).astype(np.float32)
            return list(unit_length[:, None]) if layout.parts and not layout.apart else unit_length
    if layout.parts:
        rows = [_part_rows(point, layout) for point in points]
        if layout.apart and all(len(part) == 1 for part in rows):
            return np.array(rows, np.float32).reshape(-1, layout.dimensions)
        return rows
    return np.array([_only_row(point, layout) for point in points], np.float32)


def _only_row(point: Point, layout: Layout) -> Float32:
    if point.part_vectors is not None:
        raise InvalidInput(
            f"{point.document_id} has {len(point.parts)} parts, and its collection was made before documents had "
            "several: reindex it, or fill a new collection",
            field="parts",
            limit=1,
        )
    return unit(point.vector, layout.dimensions, point.document_id)


def _part_rows(point: Point, layout: Layout) -> Float32:
    owner = point.document_id
    if (values := point.vectors.size) > MAX_VALUES:
        raise InvalidInput(f"{owner} has {values} values in its vectors, limit is {MAX_VALUES}", limit=MAX_VALUES)
    return unit_rows(point.vectors, layout.dimensions, owner, "vectors")


def query_of(vector: Float32, layout: Layout) -> list[Any]:
    """Return a query's vector as the engines compare it: with the nearest of a point's vectors, or its only one."""
    query = unit(vector, layout.dimensions, "the query").tolist()
    return [query] if layout.parts and not layout.apart else query


@dataclass(frozen=True, slots=True)
class Stored:
    """The vectors of a point as they were read."""

    vectors: Float32  # (P, D)
    latents: Float32 | None = None  # None if they were not read

    @property
    def vector(self) -> Float32:
        return mean_of(self.vectors)

    def best(self, query: Float32) -> tuple[int, Float32]:
        """Return the part nearest to a query (D,), and its vector."""
        nearest = int(np.argmax(self.vectors @ query))
        return nearest, self.vectors[nearest]


def unpacked(vectors: Any) -> Stored:
    """Return the embeddings and the latents of a record."""
    named = vectors if isinstance(vectors, dict) else {DENSE: vectors}
    latents = named.get(LATENTS)
    return Stored(
        np.atleast_2d(np.asarray(named[DENSE] if DENSE in named else named[PARTS], np.float32)),
        None if latents is None else np.asarray(latents, np.float32),
    )


def words_name(language: str) -> str:
    """Return the name of a collection's sparse vector, which tells its language."""
    return WORDS + language


def language_of(names: Iterable[str]) -> str | None:
    """Return the language that the names of a collection's sparse vectors tell; None where no name is ours."""
    return next((name.removeprefix(WORDS) for name in names if name.startswith(WORDS)), None)


def new_layout(dimensions: int, language: str | None, latents: bool | None) -> Layout:
    """Return the layout of a collection to be made. Raises `InvalidInput` for an unknown language."""
    return Layout(dimensions, SIMPLE if language is None else check_language(language), bool(latents), parts=True)


def fits(layout: Layout, dimensions: int, language: str | None, latents: bool | None, name: str) -> None:
    """Raise `Conflict` where an existing collection has another layout than the requested one."""
    if layout.dimensions != dimensions:
        raise Conflict(f"collection {name} has {layout.dimensions} dimensions, not {dimensions}")
    if language is not None and layout.language != language:
        raise Conflict(
            f"collection {name} keeps the words of its texts as {layout.language}, not as {language}: that is fixed "
            "when it is made. Fill a new collection",
            field="language",
            value=language,
        )
    if latents is not None and layout.latents != latents:
        has, requested = ("holds", "none") if layout.latents else ("holds no", "some")
        raise Conflict(f"collection {name} {has} latents, wanted {requested}", field="latents")


def require_latents(layout: Layout, name: str) -> None:
    if not layout.latents:
        raise Conflict(
            f"collection {name} holds one embedding of each document and no latents, so there is nothing to rerank by. "
            "It takes a model with several latents, and a collection that it fills",
            field="rerank",
        )


def just_below(score_threshold: float) -> float:
    """Return a threshold for engines that want scores above it, where ours are at or above it. It is always a finite
    float32.
    """
    most = np.finfo(np.float32).max
    return float(np.nextafter(np.float32(np.clip(score_threshold, -most, most)), -most))
