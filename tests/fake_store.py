"""A store in memory that keeps every promise of the real ones: NumPy for the ranking, `filters.matches` for the filter."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from indexer.filters import FieldType, Filter, matches
from indexer.records import Hit, Page, Point, point_id
from indexer.store import Consistency
from model.errors import Conflict, InvalidInput, NotFound, RetrievalError
from model.inputs import Float32


class FakeStore:
    """`broken` set is raised by every call; `upserts` has the document ids of each write, `indexes` what was declared."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[int, dict[str, Point]]] = {}
        self.broken: RetrievalError | None = None
        self.upserts: list[list[str]] = []
        self.indexes: dict[str, dict[str, FieldType]] = {}

    async def create(self, name: str, dimensions: int, indexes: Mapping[str, FieldType] | None = None) -> None:
        self.check()
        present, _ = self.kept.setdefault(name, (dimensions, {}))
        if present != dimensions:
            raise Conflict(f"collection {name} has {present} dimensions, not {dimensions}")
        self.indexes.setdefault(name, {}).update(indexes or {})

    async def drop(self, name: str) -> None:
        self.check()
        self.kept.pop(name, None)

    def points(self, name: str) -> "FakePoints":
        return FakePoints(self, name)

    async def size_bytes(self, name: str) -> int | None:
        await self.points(name).count()
        return None

    async def ping(self) -> None:
        self.check()

    async def close(self) -> None: ...

    def check(self) -> None:
        if self.broken:
            raise self.broken


class FakePoints:
    def __init__(self, store: FakeStore, name: str) -> None:
        self._store = store
        self._name = name

    async def upsert(self, points: Sequence[Point]) -> None:
        dimensions, kept = self._kept()
        new = {each.document_id: replace(each, vector=unit(each.vector, dimensions)) for each in points}
        for point in new.values():
            if point.metadata.get("unstorable"):
                raise InvalidInput("the store cannot hold this value")
        kept.update(new)
        self._store.upserts.append([each.document_id for each in points])

    async def delete(self, document_ids: Sequence[str]) -> None:
        for each in document_ids:
            self._kept()[1].pop(each, None)

    async def fetch(self, document_ids: Sequence[str]) -> list[Point | None]:
        return [self._kept()[1].get(each) for each in document_ids]

    async def search(
        self,
        vector: Float32,
        *,
        limit: int,
        offset: int = 0,
        condition: Filter | None = None,
        score_threshold: float | None = None,
        with_vector: bool = False,
        consistency: Consistency = "one",
    ) -> list[Hit]:
        dimensions, kept = self._kept()
        query = unit(vector, dimensions)
        if limit < 0 or offset < 0:
            raise InvalidInput("limit or offset is below 0")
        found = [(float(each.vector @ query), each) for each in kept.values()]
        hits = [
            Hit(p.document_id, score, p.text, p.image_digest, p.metadata, p.vector if with_vector else None, p.shares)
            for score, p in found
            if (condition is None or matches(condition, p.metadata))
            and (score_threshold is None or score >= score_threshold)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.document_id))[offset : offset + limit]

    async def count(self) -> int:
        return len(self._kept()[1])

    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        kept = [each for each in self._kept()[1].values() if condition is None or matches(condition, each.metadata)]
        ids = sorted((each.document_id for each in kept), key=point_id)
        rest = [each for each in ids if after is None or point_id(each) >= after]
        return Page(tuple(rest[:limit]), point_id(rest[limit]) if len(rest) > limit else None)

    async def images(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        kept = sorted(self._kept()[1].values(), key=lambda each: point_id(each.document_id))
        rest = [each for each in kept if after is None or point_id(each.document_id) >= after]
        following = point_id(rest[limit].document_id) if len(rest) > limit else None
        return [each.image_digest for each in rest[:limit] if each.image_digest is not None], following

    def _kept(self) -> tuple[int, dict[str, Point]]:
        self._store.check()
        if self._name not in self._store.kept:
            raise NotFound(f"there is no collection {self._name} in the store")
        return self._store.kept[self._name]


def unit(vector: Float32, dimensions: int) -> Float32:
    norm = np.linalg.norm(vector.astype(np.float64))
    if vector.shape != (dimensions,) or not np.isfinite(norm) or norm == 0:
        raise InvalidInput(f"vector of shape {vector.shape} and norm {norm}")
    return (vector.astype(np.float64) / norm).astype(np.float32)
