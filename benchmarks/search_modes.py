"""`python -m benchmarks.search_modes`: where words help and where they do not, and what late interaction changes. The tables of
docs/search-modes.md.

Everything is searched through `RankedSearch` in Qdrant Edge, as the service does. Embeddings take minutes and are kept in --cache FILE.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import re
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.store.base import Points, SearchWindow
from indexer.store.criteria import LateInteraction
from indexer.store.edge.client import EdgeStore
from model.evaluation.atlas import Atlas
from model.evaluation.recall import Carries, corpus, questions
from model.ret2 import Ret2
from model.retriever import Retriever
from model.types import Encoded, Float32, Input, Limits, Role
from service.schemas.search import RrfIn, WeightedIn
from service.search.modes import RankedSearch, RankingMode

MODES: dict[str, RankingMode] = {
    "fused": RankingMode(),
    "lexical": RankingMode("lexical"),
    "hybrid, rrf 60": RankingMode("hybrid", RrfIn(method="rrf")),
    **{
        f"hybrid, weight {weight}": RankingMode("hybrid", WeightedIn(method="weighted", weight=weight))
        for weight in (0.1, 0.3, 0.5)
    },
}
_BATCH = 64
_EXACT_QUERIES = 200  # whose exact MaxSim is computed
_MANY_POINTS, _MANY_LATENTS, _MANY_DIMENSIONS = 20_000, 32, 128  # 330 MB
_SPEED_POINTS, _SPEED_DIMENSIONS, _SPEED_WORDS = 100_000, 256, 20_000


@dataclass(frozen=True, slots=True)
class Ask:
    part: str
    right: frozenset[str]
    content: Input


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, questions, and the documents that are right for each."""

    name: str
    ids: list[str]
    documents: list[Input]
    asks: list[Ask]


def atlas(data: Atlas, query: Carries, document: Carries) -> Collection:
    items = corpus(data, document)
    asks = [Ask(one.part, frozenset([one.positive or ""]), one.content) for one in questions(data, query, document)]
    return Collection(f"atlas {query} → {document}", [item.id for item in items], [i.content for i in items], asks)


def docstrings(every: int) -> Collection:
    """Text that ret2-atlas never saw: of each docstring of Python's library the first sentence asks for the others."""
    pairs = list(_docstrings())[::every]
    documents = [Input(rest) for _, _, rest in pairs]
    asks = [Ask("", frozenset([name]), Input(first)) for name, first, _ in pairs]
    return Collection("docstrings, text → text", [name for name, _, _ in pairs], documents, asks)


def _docstrings() -> Iterator[tuple[str, str, str]]:
    """(name, first sentence, the others). The modules are read, not imported."""
    seen: set[str] = set()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        for name, text in _texts(ast.parse(file.read_bytes()), file.stem):
            first, _, rest = re.sub(r"(?<=[.!?]) ", "\n", " ".join(text.split()), count=1).partition("\n")
            if len(first.split()) >= 4 and len(rest.split()) >= 8 and rest not in seen:
                seen.add(rest)
                yield name, first, rest


def _texts(parent: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
    """Of the public classes in it, their methods, and its functions."""
    for each in parent.body:
        if isinstance(each, ast.ClassDef | ast.FunctionDef) and not each.name.startswith("_"):
            path = f"{name}.{each.name}"
            if text := ast.get_docstring(each):
                yield path, text
            if isinstance(each, ast.ClassDef):
                yield from _texts(each, path)


class Embeddings:
    """Of one model, each set of inputs made once and kept in a file."""

    def __init__(self, retriever: Retriever, name: str, cache: Path) -> None:
        self._retriever, self._name, self._cache = retriever, name, cache
        self._kept = dict(np.load(cache)) if cache.exists() else {}

    def of(self, inputs: Sequence[Input], role: Role, key: str) -> Encoded:
        key = f"{self._name} {role} {key}"
        if key not in self._kept:
            done: list[Encoded] = []
            for start in range(0, len(inputs), _BATCH):
                batch = [self._retriever.prepare(one, role, Limits()) for one in inputs[start : start + _BATCH]]
                done.append(self._retriever.launch(batch)())
                print(f"\r{key}: {start + len(batch)}/{len(inputs)}", end="", flush=True)
            print()
            self._kept[key] = np.concatenate([one.vectors for one in done])
            if done[0].latents is not None:
                self._kept[f"{key} latents"] = np.concatenate([one.latents for one in done if one.latents is not None])
            np.savez(self._cache, **self._kept)
        return Encoded(self._kept[key], None, self._kept.get(f"{key} latents"))


def several(source: str) -> Retriever:
    """The same weights, giving each latent instead of their mean."""
    retriever = Retriever.load(source)
    retriever.config = replace(retriever.ret2_config, pooling="none")
    for side in retriever.sides.values():
        assert isinstance(side, Ret2), "a sum has no latents"
        side.pooled = False
    return retriever


async def fill(points: Points, collection: Collection, encoded: Encoded) -> None:
    latents: Any = [None] * len(collection.ids) if encoded.latents is None else encoded.latents
    rows = list(zip(collection.ids, collection.documents, encoded.vectors, latents, strict=True))
    for start in range(0, len(rows), 256):
        await points.upsert(
            [Point(i, vector, one.text, None, {}, "", None, rest) for i, one, vector, rest in rows[start : start + 256]]
        )


async def recall(points: Points, collection: Collection, encoded: Encoded, mode: RankingMode) -> dict[str, list[float]]:
    """Shares of the asks whose document is first and among ten, by part."""
    hits: dict[str, list[list[bool]]] = {}
    for row, ask in enumerate(collection.asks):
        latents = None if encoded.latents is None else encoded.latents[row]
        search = RankedSearch(points, mode, encoded.vectors[row], latents, ask.content.text)
        found = [hit.document_id for hit in await search.window(0, 10)]
        hits.setdefault(ask.part, []).append([not ask.right.isdisjoint(found[:k]) for k in (1, 10)])
    return {part: np.mean(rows, axis=0).tolist() for part, rows in hits.items()}


def show(name: str, found: dict[str, list[float]]) -> None:
    print(f"| {name} | " + " | ".join(f"{first:.3f} | {ten:.3f}" for first, ten in found.values()) + " |", flush=True)


def head(name: str, collection: Collection) -> None:
    parts = [part or "all" for part in dict.fromkeys(ask.part for ask in collection.asks)]
    print(f"\n{name}: {len(collection.ids)} documents, {len(collection.asks)} queries")
    print("| mode | " + " | ".join(f"{part} R@1 | {part} R@10" for part in parts) + " |")
    print("|---|" + "---|---|" * len(parts))


async def words(
    store: EdgeStore, number: int, collection: Collection, embeddings: Embeddings, keys: Sequence[str]
) -> None:
    dimensions = embeddings.of(collection.documents, Role.DOCUMENT, keys[1]).vectors.shape[1]
    await store.create(f"words-{number}", dimensions, language="english")
    points = store.points(f"words-{number}")
    await fill(points, collection, embeddings.of(collection.documents, Role.DOCUMENT, keys[1]))
    asked = embeddings.of([ask.content for ask in collection.asks], Role.QUERY, keys[0])
    head(collection.name, collection)
    for name, mode in MODES.items():
        show(name, await recall(points, collection, asked, mode))


async def late(store: EdgeStore, collection: Collection, embeddings: Embeddings, keys: Sequence[str]) -> None:
    documents = embeddings.of(collection.documents, Role.DOCUMENT, keys[1])
    asked = embeddings.of([ask.content for ask in collection.asks], Role.QUERY, keys[0])
    assert documents.latents is not None
    assert asked.latents is not None
    await store.create("late", documents.vectors.shape[1], latents=True)
    points = store.points("late")
    await fill(points, collection, documents)
    head(f"{collection.name}, {documents.latents.shape[1]} latents", collection)
    show("mean of the latents", await recall(points, collection, asked, RankingMode()))
    show("reranked by MaxSim", await recall(points, collection, asked, RankingMode(oversampling=4.0)))
    for oversampling in (1, 2, 4):
        kept = []
        for row in range(0, len(collection.asks), max(1, len(collection.asks) // _EXACT_QUERIES)):
            exact = _maxsim(asked.latents[row], documents.latents)
            best = {point_id(collection.ids[place]) for place in np.argsort(-exact, kind="stable")[:10]}
            by = LateInteraction(asked.vectors[row], asked.latents[row], 10 * oversampling)
            kept.append(len(best & {place.point_id for place in await points.rank(by, SearchWindow(limit=10))}) / 10)
        print(f"{10 * oversampling} candidates for 10 hits: {np.mean(kept):.4f} of the exact MaxSim ten")


def _maxsim(query: Float32, documents: Float32) -> Float32:
    scores: Float32 = np.einsum("ke,nje->nkj", query, documents).max(axis=2).mean(axis=1)
    return scores


async def many(spread: float) -> None:
    """Of 32 latents as ReT v1 has them, made: documents about 200 topics, latents of `spread` about their document's direction and
    beside it one direction for each place among the 32. Candidates are the nearest by mean, in NumPy as the store has them."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> Float32:
        rows: Float32 = random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
        return rows

    topics, places = noise(200, _MANY_DIMENSIONS), noise(_MANY_LATENTS, _MANY_DIMENSIONS)
    about = topics[random.integers(200, size=_MANY_POINTS)] + noise(_MANY_POINTS, _MANY_DIMENSIONS)
    documents = about[:, None] + 0.5 * places
    documents += np.float32(spread) * noise(_MANY_POINTS, _MANY_LATENTS, _MANY_DIMENSIONS)
    documents /= np.linalg.norm(documents, axis=2, keepdims=True)
    means = documents.mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    kept: dict[int, list[float]] = {400: [], 100: []}
    for row in range(0, _MANY_POINTS, _MANY_POINTS // 40):
        query = documents[row] + np.float32(0.5 + spread) * noise(_MANY_LATENTS, _MANY_DIMENSIONS)
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        scores = np.concatenate(
            [(documents[i : i + 1_000] @ query.T).max(axis=1).mean(axis=1) for i in range(0, _MANY_POINTS, 1_000)]
        )
        exact = np.argsort(-scores)[:10]
        nearest = np.argsort(-(means @ query.mean(axis=0)))
        for candidates, shares in kept.items():
            shares.append(len(set(exact) & set(nearest[:candidates])) / 10)
    for candidates, shares in kept.items():
        print(
            f"{_MANY_POINTS} x {_MANY_LATENTS} latents, spread {spread}, {candidates} candidates: {np.mean(shares):.4f}"
        )


async def speed(store: EdgeStore) -> None:
    """Milliseconds in the store, beside what else this machine does."""
    random = np.random.default_rng(0)
    await store.create("speed", _SPEED_DIMENSIONS, language="simple")
    points = store.points("speed")
    chances = 1 / np.arange(1, _SPEED_WORDS + 1)
    chances /= chances.sum()

    def text(length: int) -> str:
        return " ".join(f"w{number}" for number in random.choice(_SPEED_WORDS, length, p=chances))

    for start in range(0, _SPEED_POINTS, 256):
        vectors = random.standard_normal((256, _SPEED_DIMENSIONS)).astype(np.float32)
        await points.upsert([Point(f"d{start + i}", vectors[i], text(50), None, {}, "") for i in range(256)])
    print(f"\n{_SPEED_POINTS} × {_SPEED_DIMENSIONS}, 50 words each, 5 in a query; store time")
    for name, mode in MODES.items():
        took = []
        for _ in range(60):
            vector = random.standard_normal(_SPEED_DIMENSIONS).astype(np.float32)
            search = RankedSearch(points, mode, vector, None, text(5))
            began = time.perf_counter()
            await search.window(0, 10)
            took.append((time.perf_counter() - began) * 1e3)
        print(f"| {name} | {np.percentile(took, 50):.1f} ms | {np.percentile(took, 95):.1f} ms |", flush=True)


async def measure(sections: Sequence[str], cache: Path, every: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = EdgeStore(Path(folder))
        run: dict[str, Callable[[], Any]] = {
            "atlas": lambda: _atlas(store, cache),
            "text": lambda: words(
                store, 9, docstrings(every), _embeddings(cache), [f"docstrings {every} asks", f"docstrings {every}"]
            ),
            "late": lambda: late(
                store,
                atlas(Atlas.read(), Carries.BOTH, Carries.BOTH),
                Embeddings(several("bundled"), "latents", cache),
                ["asks text+image", "text+image"],
            ),
            "many": _many,
            "speed": lambda: speed(store),
        }
        try:
            for section in sections:
                await run[section]()
        finally:
            await store.close()


def _embeddings(cache: Path) -> Embeddings:
    return Embeddings(Retriever.load("bundled"), "pooled", cache)


async def _many() -> None:
    for spread in (0.5, 1.0, 2.0, 4.0):
        await many(spread)


async def _atlas(store: EdgeStore, cache: Path) -> None:
    data, embeddings = Atlas.read(), _embeddings(cache)
    pairs = [(Carries.TEXT, Carries.BOTH), (Carries.TEXT, Carries.TEXT), (Carries.BOTH, Carries.BOTH)]
    for number, (query, document) in enumerate(pairs):
        await words(store, number, atlas(data, query, document), embeddings, [f"asks {query}", f"{document}"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_modes", description=__doc__)
    parser.add_argument("sections", nargs="*", default=["atlas", "text", "late", "many", "speed"])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "ret2-search-modes.npz")
    parser.add_argument("--every", type=int, default=3, help="take every n-th docstring")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.sections, arguments.cache, arguments.every))


if __name__ == "__main__":
    main()
