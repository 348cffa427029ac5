"""`python -m benchmarks.ranking [facets steering words]`: what facets, sorting and boosts cost on Qdrant Edge, and what
tolerance of typos and beginnings finds and costs.

Vectors are made, not embedded; the calls are those of the service behind /search and /facets, without HTTP and model.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import percentile
from benchmarks.machine import Machine
from benchmarks.search_modes import docstrings
from indexer.domain.points import Point
from indexer.filters import Equals, FieldType, Filter, Range
from indexer.store.base import Points, SearchWindow
from indexer.store.bm25 import TOLERANT, document_words
from indexer.store.criteria import Boost, WordMatch
from indexer.store.edge.client import EdgeStore
from service.schemas.boosts import BoostDecayIn, BoostFieldIn, BoostFilterIn, BoostIn
from service.search.boosts import boosts_of
from service.search.browsing import Browser
from service.search.clock import Clock
from service.search.diversity import DiverseRanking
from service.search.facets import Facets
from service.search.modes import RankedSearch, RankingMode
from service.search.sorting import SortKey

# So few dimensions that no graph is built meanwhile, beside which nothing could be measured.
DOCUMENTS, DIMENSIONS, TIMES = 100_000, 48, 40
DECLARED = {"brand": FieldType.KEYWORD, "price": FieldType.NUMBER, "made": FieldType.DATETIME}
FILTERS: dict[str, Filter | None] = {
    "no filter": None,
    "one in five": Range("price", lt=100.0),
    "one in a hundred": Range("price", lt=5.0),
}


async def fill(store: EdgeStore) -> Points:
    """A hundred thousand documents of 500 brands, by Zipf's law."""
    await store.create("c", DIMENSIONS, DECLARED)
    points, rng = store.points("c"), np.random.default_rng(0)
    brands = np.minimum(rng.zipf(1.3, DOCUMENTS), 500)
    for start in range(0, DOCUMENTS, 1_000):
        vectors = rng.standard_normal((1_000, DIMENSIONS)).astype(np.float32)
        batch = []
        for i, vector in enumerate(vectors, start):
            made = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=int(rng.integers(8_000)))
            metadata = {
                "brand": f"b{brands[i]}",
                "price": float(rng.integers(1, 5_000)) / 10,
                "made": made.isoformat(),
                "colour": f"c{i % 12}",
            }
            batch.append(Point(f"d{i}", vector, f"word{i % 100} shoe", None, metadata, ""))
        await points.upsert(batch)
    return points


async def timed(name: str, call: Callable[[], Awaitable[Any]]) -> None:
    await call()
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1e3)
    print(f"| {name} | {percentile(took, 50):.1f} | {percentile(took, 95):.1f} |", flush=True)


def _heading(what: str) -> None:
    print(f"\n| {what} | p50 ms | p95 ms |\n|---|---|---|")


async def facets(points: Points) -> None:
    _heading(f"{DOCUMENTS:,} documents")
    for name, condition in FILTERS.items():
        counting = Facets(points, DECLARED, condition, 10)
        await timed(f"facet of 500 brands, {name}", lambda: counting.of_condition(["brand"]))  # noqa: B023  awaited here
        await timed(f"histogram of prices, {name}", lambda: counting.of_condition(["price"]))  # noqa: B023
    few = Facets(points, DECLARED, FILTERS["one in a hundred"], 10)
    await timed("facet of a field that is not declared, one in a hundred", lambda: few.of_condition(["colour"]))
    for name, condition in FILTERS.items():
        browser = Browser(points.columns, [SortKey("price", declared=FieldType.NUMBER)], condition)
        await timed(f"ten of a list sorted by price, {name}", lambda: browser.entries(None, 11))  # noqa: B023


async def steering(points: Points) -> None:
    rng = np.random.default_rng(1)
    now = datetime(2026, 11, 30, tzinfo=UTC).isoformat()
    three: list[BoostIn] = [
        BoostFilterIn.model_construct(filter=Equals("brand", "b1"), weight=0.1),
        BoostFieldIn(field="price", weight=1e-4),
        BoostDecayIn(field="made", decay="exp", scale="30d", origin=now, weight=0.1),
    ]
    boosts = boosts_of(three, DECLARED)
    # Without an index metadata are read.
    undeclared = boosts_of([*three[:2], BoostFieldIn(field="stock", weight=1e-4)], DECLARED)

    def ranked(boosts: tuple[Boost, ...] = ()) -> RankedSearch:
        vector = rng.standard_normal(DIMENSIONS).astype(np.float32)
        return RankedSearch(points, RankingMode(), vector, options=SearchWindow(0), boosts=boosts)

    _heading(f"{DOCUMENTS:,} documents, ten hits by embedding")
    await timed("plain", lambda: ranked().window(0, 10))
    await timed("with three boosts", lambda: ranked(boosts).window(0, 10))
    await timed("with three boosts, one by a field that is not declared", lambda: ranked(undeclared).window(0, 10))
    await timed("with diversity", lambda: DiverseRanking(ranked(), points, 0.3, Clock()).window(0, 10))


# --- words


def mistyped(text: str, rng: random.Random) -> str:
    """Exchange two neighbouring letters, or leave one out, in each word of five letters or more."""
    return " ".join(_mistyped(word, rng) if len(word) >= 5 else word for word in text.split())


def _mistyped(word: str, rng: random.Random) -> str:
    place = rng.randrange(1, len(word) - 1)
    if rng.random() < 0.5:
        return word[:place] + word[place + 1 :]
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def begun(text: str) -> str:
    """Leave the first three quarters of each word."""
    return " ".join(word[: max(3, len(word) * 3 // 4)] for word in text.split())


async def words(store: EdgeStore) -> None:
    """Of the docstrings, the first sentence is the query and the other sentences are the document."""
    collection, rng = docstrings(1), random.Random(0)
    texts = [document.text or "" for document in collection.documents]
    queries = [(ask.content.text or "", ask.right) for ask in collection.asks]
    kinds: dict[str, Callable[[str], str]] = {
        "as written": lambda text: text,
        "a typo in each word of five letters": lambda text: mistyped(text, rng),
        "three quarters of each word": begun,
    }
    print(f"\n{len(texts)} docstrings, mode lexical\n")
    print(
        "| language | queries | R@1 | R@10 | p50 ms | terms a document | filled in s |\n|---|---|---|---|---|---|---|"
    )
    for language in ("english", f"english{TOLERANT}"):
        name = language.replace("+", "-")
        await store.create(name, 4, language=language)
        began = time.perf_counter()
        for start in range(0, len(texts), 256):
            ids = collection.ids[start : start + 256]
            batch = zip(ids, texts[start : start + 256], strict=True)
            await store.points(name).upsert(
                [Point(one, np.ones(4, np.float32), text, None, {}, "") for one, text in batch]
            )
        filled_s = time.perf_counter() - began
        terms = np.mean([len(document_words(text, language).ids) for text in texts])
        for kind, change in kinds.items():
            first, ten, took = await _recall(store.points(name), [(change(text), right) for text, right in queries])
            print(f"| {language} | {kind} | {first:.3f} | {ten:.3f} | {took:.1f} | {terms:.0f} | {filled_s:.1f} |")


async def _recall(points: Points, queries: Sequence[tuple[str, Any]]) -> tuple[float, float, float]:
    first = ten = 0
    took = []
    for text, right in queries:
        began = time.perf_counter()
        hits = await points.hits(await points.rank(WordMatch(text), SearchWindow(10)))
        took.append((time.perf_counter() - began) * 1e3)
        ids = [hit.document_id for hit in hits]
        first += bool(ids) and ids[0] in right
        ten += any(one in right for one in ids)
    return first / len(queries), ten / len(queries), percentile(took, 50)


async def measure(sections: Sequence[str]) -> None:
    print(Machine.read())
    with tempfile.TemporaryDirectory() as folder:
        store = EdgeStore(Path(folder))
        try:
            if {"facets", "steering"} & set(sections):
                points = await fill(store)
            if "facets" in sections:
                await facets(points)
            if "steering" in sections:
                await steering(points)
            if "words" in sections:
                await words(store)
        finally:
            await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=["facets", "steering", "words"])
    asyncio.run(measure(parser.parse_args().sections))


if __name__ == "__main__":
    main()
