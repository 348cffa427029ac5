"""A store in memory that keeps every promise of the real ones: NumPy for the ranking, `filters.matches` for the filter."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np

from indexer.domain.documents import point_id
from indexer.domain.points import MAX_VALUES, NO_VECTOR, Hit, Lexical, MetadataChange, Page, Point, Stretch, mean_of
from indexer.errors import PointsMissing
from indexer.filters import FieldType, Filter
from indexer.filters.meaning import matches
from indexer.store.base import Consistency, Layout, SearchWindow, ServerOptions, Summary
from indexer.store.bm25 import TOLERANT, document_words, query_words, tokens
from indexer.store.boosts import boosted, candidates_of
from indexer.store.columns import FieldUse, Row
from indexer.store.criteria import Boosted, Criterion, Hybrid, LateInteraction, Nearest, Place, Ranked, WordMatch
from indexer.store.fusion import fuse, places
from indexer.store.indexes import declared_indexes
from indexer.store.vectors import Stored, new_layout
from model.errors import Conflict, InvalidInput, RetrievalError
from model.types import Float32


class FakeStore:
    """`broken` set is raised by every call; `upserts` has the document ids of each write, `indexes` what was declared."""

    writes_late = False

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Layout, dict[str, Point]]] = {}
        self.broken: RetrievalError | None = None
        self.upserts: list[list[str]] = []
        self.indexes: dict[str, dict[str, FieldType]] = {}
        self.upkeep: tuple[str, ...] = ()

    async def create(
        self,
        name: str,
        dimensions: int,
        indexes: Mapping[str, FieldType] | None = None,
        *,
        language: str | None = None,
        latents: bool | None = None,
        like: str | None = None,
        options: ServerOptions | None = None,
    ) -> None:
        self.check()
        layout = new_layout(dimensions, language, latents)
        present, _ = self.kept.setdefault(name, (layout, {}))
        if present.dimensions != dimensions:
            raise Conflict(f"collection {name} has {present.dimensions} dimensions, not {dimensions}")
        if language not in (None, present.language) or latents not in (None, present.latents):
            raise Conflict(f"collection {name} is {present}, not {layout}")
        self.indexes.setdefault(name, {}).update(indexes or {})

    async def drop(self, name: str) -> None:
        self.check()
        self.kept.pop(name, None)

    def points(self, name: str) -> "FakePoints":
        return FakePoints(self, name)

    async def summaries(self, names: Sequence[str]) -> dict[str, Summary | RetrievalError]:
        self.check()
        return {name: self._summary(name) for name in names}

    def _summary(self, name: str) -> Summary | RetrievalError:
        if name not in self.kept:
            return PointsMissing(f"the store has no points of collection {name}")
        layout, points = self.kept[name]
        return Summary(layout, len(points), None, declared_indexes(self.indexes[name]), self.upkeep)

    async def ping(self) -> None:
        self.check()

    @property
    def versions(self) -> dict[str, str | None]:
        return {}

    @property
    def alive(self) -> bool:
        return True

    async def close(self) -> None: ...

    def check(self) -> None:
        if self.broken:
            raise self.broken


class FakePoints:
    def __init__(self, store: FakeStore, name: str) -> None:
        self._store = store
        self._name = name

    async def upsert(self, points: Sequence[Point]) -> None:
        layout, kept = self._kept()
        new = {each.document_id: _normalised(each, layout) for each in points}
        if layout.latents and any(each.latents is None for each in points):
            raise InvalidInput("latents are missing")
        for point in new.values():
            if point.metadata.get("unstorable"):
                raise InvalidInput("the store cannot hold this value")
        kept.update(new)
        self._store.upserts.append([each.document_id for each in points])

    async def set_metadata(self, changes: Sequence[MetadataChange]) -> None:
        kept = self._kept()[1]
        if any(change.metadata.get("unstorable") for change in changes):
            raise InvalidInput("the store cannot hold this value")
        for change in changes:
            if (point := kept.get(change.document_id)) is not None:
                kept[change.document_id] = replace(point, metadata=change.metadata, content_hash=change.content_hash)

    async def delete(self, document_ids: Sequence[str]) -> None:
        for each in document_ids:
            self._kept()[1].pop(each, None)

    async def fetch(
        self, document_ids: Sequence[str], *, with_latents: bool = False, with_vectors: bool = True
    ) -> list[Point | None]:
        kept = self._kept()[1]
        points = [kept.get(document_id) for document_id in document_ids]
        points = points if with_latents else [point and replace(point, latents=None) for point in points]
        return points if with_vectors else [point and replace(point, vector=NO_VECTOR) for point in points]

    async def search(self, criterion: Criterion, window: SearchWindow) -> list[Hit]:
        return await self.hits(await self.rank(criterion, window), with_vector=window.with_vector)

    async def hits(
        self, places: Sequence[Place], *, with_vector: bool = False, consistency: Consistency = "one"
    ) -> list[Hit]:
        by_id = {point_id(name): point for name, point in self._kept()[1].items()}
        return [
            Hit(
                point.document_id,
                place.score,
                point.text,
                point.image_digest,
                point.metadata,
                point.vector if with_vector else None,
                point.shares,
                None if place.words is None else Lexical(place.words, place.share),
                more_images=point.more_images,
                parts=point.parts,
            )
            for place in places
            if (point := by_id.get(place.point_id))
        ]

    async def best_parts(self, vector: Float32, document_ids: Sequence[str]) -> list[tuple[int, Float32] | None]:
        points = await self.fetch(document_ids)
        return [None if point is None else Stored(point.vectors).best(vector) for point in points]

    async def rank(self, criterion: Criterion, window: SearchWindow) -> list[Place]:
        if isinstance(criterion, Boosted):
            ranking = await self.rank(criterion.ranking, candidates_of(criterion, window))
            metadata = {point_id(name): point.metadata for name, point in self._kept()[1].items()}
            return boosted(criterion, ranking, metadata, window)
        if not isinstance(criterion, Hybrid):
            return places(criterion, self._ranked(criterion, window))
        candidates = replace(window, limit=criterion.candidates, offset=0, score_threshold=None)
        parts = self._ranked(criterion.embedding, candidates), self._ranked(criterion.words, candidates)
        return fuse(criterion, *parts, window)

    def _ranked(self, criterion: Nearest | WordMatch | LateInteraction, window: SearchWindow) -> Ranked:
        layout, kept = self._kept()
        window.check()
        condition = window.condition
        there = {name: point for name, point in kept.items() if condition is None or matches(condition, point.metadata)}
        match criterion:
            case Nearest(vector):
                query = unit(vector, layout.dimensions)
                scores = {name: float((point.vectors @ query).max()) for name, point in there.items()}
            case WordMatch(text):
                found = bm25({name: point.text or "" for name, point in kept.items()}, text, layout.language)
                scores = {name: score for name, score in found.items() if name in there}
            case LateInteraction(vector, latents, candidates):
                if not layout.latents:
                    raise Conflict("the collection keeps no latents")
                nearest = SearchWindow(candidates, condition=condition)
                near = {key for key, _ in self._ranked(Nearest(vector), nearest)}
                scores = {name: maxsim(latents, each.latents) for name, each in there.items() if point_id(name) in near}
        by_id = [(point_id(name), score) for name, score in scores.items()]
        return window.cut(sorted(by_id, key=lambda scored: (-scored[1], scored[0])))

    async def layout(self) -> Layout:
        return self._kept()[0]

    async def count(self, condition: Filter | None = None) -> int:
        return sum(condition is None or matches(condition, point.metadata) for point in self._kept()[1].values())

    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        kept = [each for each in self._kept()[1].values() if condition is None or matches(condition, each.metadata)]
        ids = sorted((each.document_id for each in kept), key=point_id)
        rest = [each for each in ids if after is None or point_id(each) >= after]
        return Page(tuple(rest[:limit]), point_id(rest[limit]) if len(rest) > limit else None)

    async def scroll(
        self, after: str | None, limit: int, condition: Filter | None = None, *, with_vectors: bool = False
    ) -> Stretch:
        page = await self.page(after, limit, condition)
        points = [replace(self._kept()[1][key], latents=None) for key in page.document_ids]
        return Stretch(
            tuple(point if with_vectors else replace(point, vector=NO_VECTOR) for point in points), page.after
        )

    @property
    def columns(self) -> "FakeColumns":
        return FakeColumns(self)

    async def images(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        kept = sorted(self._kept()[1].values(), key=lambda each: point_id(each.document_id))
        rest = [each for each in kept if after is None or point_id(each.document_id) >= after]
        following = point_id(rest[limit].document_id) if len(rest) > limit else None
        return [digest for each in rest[:limit] for digest in each.digests], following

    def _kept(self) -> tuple[Layout, dict[str, Point]]:
        self._store.check()
        if self._name not in self._store.kept:
            raise PointsMissing(f"the store has no points of collection {self._name}")
        return self._store.kept[self._name]


class FakeColumns:
    """Without indexes: everything is read."""

    def __init__(self, points: FakePoints) -> None:
        self._points = points

    async def index_for(self, use: FieldUse, condition: Filter | None) -> FieldType | None:
        await self._points.count()
        return None

    async def rows(self, point_ids: list[str], fields: Iterable[str], *, with_vectors: bool = False) -> list[Row]:
        found = await self._points.hits([Place(one, 0.0) for one in point_ids], with_vector=with_vectors)
        return [Row(point_id(hit.document_id), hit.metadata, hit.vector) for hit in found]

    async def scan(
        self, after: str | None, limit: int, condition: Filter | None, fields: Iterable[str]
    ) -> tuple[list[Row], str | None]:
        stretch = await self._points.scroll(after, limit, condition)
        return [Row(point_id(point.document_id), point.metadata) for point in stretch.points], stretch.after

    # Without an index no facet is asked of a store, and no order.
    async def facet(self, field: str, condition: Filter | None, limit: int, *, exact: bool) -> list[tuple[Any, int]]:
        raise AssertionError(field)

    async def ordered(
        self,
        field: str,
        condition: Filter | None,
        limit: int,
        fields: Iterable[str],
        *,
        descending: bool,
        start: float | datetime | None,
    ) -> list[Row]:
        raise AssertionError(field)


def _normalised(point: Point, layout: Layout) -> Point:
    if point.part_vectors is None:
        return replace(point, vector=unit(point.vector, layout.dimensions))
    if not layout.parts:
        raise InvalidInput("the collection holds one vector a document")
    if point.part_vectors.size > MAX_VALUES:
        raise InvalidInput(f"too many values, limit is {MAX_VALUES}")
    rows = np.stack([unit(row, layout.dimensions) for row in point.part_vectors])
    return replace(point, vector=mean_of(rows), part_vectors=rows)


def bm25(texts: Mapping[str, str], query: str, language: str) -> dict[str, float]:
    """The scores above 0, by the textbook: one loop over the documents, none of it shared with `indexer.store.bm25` but the words."""
    if language.endswith(TOLERANT):
        return _tolerant(texts, query, language)
    documents = {name: words for name, text in texts.items() if (words := _tokens(text, language))}
    scores: dict[str, float] = {}
    for word in tokens(query, language):
        having = sum(word in words for words in documents.values())
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for name, words in documents.items():
            if count := words.count(word):
                norm = 1.2 * (1 - 0.75 + 0.75 * len(words) / 64)
                scores[name] = scores.get(name, 0.0) + idf * count * 2.2 / (count + norm)
    return scores


def _tolerant(texts: Mapping[str, str], query: str, language: str) -> dict[str, float]:
    """The sum over the terms of the sparse vectors, as an engine makes it."""
    vectors = [(name, document_words(text, language)) for name, text in texts.items()]
    documents = {name: dict(zip(words.ids, words.weights, strict=True)) for name, words in vectors if words.ids}
    scores: dict[str, float] = {}
    asked = query_words(query, language)
    for term, weight in zip(asked.ids, asked.weights, strict=True):
        having = sum(term in terms for terms in documents.values())
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for name, terms in documents.items():
            if term in terms:
                scores[name] = scores.get(name, 0.0) + idf * weight * terms[term]
    return scores


@cache
def _tokens(text: str, language: str) -> list[str]:
    return tokens(text, language)


def maxsim(query: Float32, document: Float32 | None) -> float:
    assert document is not None
    document = document / np.linalg.norm(document, axis=1, keepdims=True)
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    return float((query @ document.T).max(axis=1).mean())


def unit(vector: Float32, dimensions: int) -> Float32:
    norm = np.linalg.norm(vector.astype(np.float64))
    if vector.shape != (dimensions,) or not np.isfinite(norm) or norm == 0:
        raise InvalidInput(f"vector of shape {vector.shape} and norm {norm}")
    return (vector.astype(np.float64) / norm).astype(np.float32)
