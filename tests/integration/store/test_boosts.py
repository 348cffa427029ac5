"""What every store promises of boosts, run over each of them: compared with plain Python on random metadata."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.filters import AnyOf, Equals, FieldType, Filter, FullText, Range
from indexer.store.base import Points, SearchWindow, Store
from indexer.store.boosts import boosted
from indexer.store.criteria import (
    Boost,
    Boosted,
    Curve,
    DecayBoost,
    FieldBoost,
    FilterBoost,
    Hybrid,
    Nearest,
    Place,
    ReciprocalRanks,
    WordMatch,
)
from indexer.store.edge import reading
from indexer.store.edge.reading import Reader
from indexer.store.edge.shards import Shards
from model.types import Float32

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

D, N, CANDIDATES = 4, 160, 60
DECLARED = {"brand": FieldType.KEYWORD, "price": FieldType.NUMBER, "made.at": FieldType.DATETIME}
ORIGIN = datetime(2026, 1, 10, tzinfo=UTC)
WORDS = ["red", "blue", "white", "green", "star", "cross", "moon"]


def random_metadata(random: np.random.Generator, lists: bool) -> dict[str, Any]:
    def pick(*options: Any) -> Any:
        return options[random.integers(len(options))]

    price = round(float(random.integers(-40, 400)) / 7, 2)
    moment = (ORIGIN + timedelta(hours=int(random.integers(-400, 400)))).isoformat()
    metadata = {
        "brand": pick("Ada", "Bell", "Ćwik", None),
        "price": pick(price, int(price), "12", None, *([[price, 70, 1]] if lists else [])),
        "made": {"at": pick(moment, "2026-01-15", "long ago", [moment], *([[moment, "2026-01-10"]] if lists else []))},
        "note": pick("red and green", "a moon", 5),
        "size": pick(1, 2.5, "XL", True, [3, 4]),
    }
    return {key: value for key, value in metadata.items() if random.random() < 0.85}


def random_boost(random: np.random.Generator, *, declared: bool) -> Boost:
    weight = float(random.normal())
    curve = list(Curve)[random.integers(3)]
    conditions: list[Filter] = [
        Equals("brand", "Ada"),
        AnyOf((Range("price", lt=20.0), FullText("note", "Red"))),
        Equals("size", 1),
    ]
    field = "price" if declared or random.random() < 0.5 else "size"
    choices: list[Boost] = [
        FilterBoost(conditions[random.integers(len(conditions))], weight),
        FieldBoost(field, weight / 50),
        DecayBoost(field, weight, curve, scale=15.0, origin=20.0),
        DecayBoost("made.at", weight, curve, scale=5 * 86_400.0, origin=ORIGIN.timestamp(), times=True),
    ]
    return choices[random.integers(len(choices))]


async def fill(store: Store, random: np.random.Generator, lists: bool) -> tuple[Points, dict[str, dict[str, Any]]]:
    documents = {f"d{i:03}": random_metadata(random, lists) for i in range(N)}
    await store.create("c", D, DECLARED)
    points = store.points("c")
    vectors = random.standard_normal((N, D)).astype(np.float32)
    await points.upsert(
        [
            Point(name, vector, f"{WORDS[i % 7]} {WORDS[i % 5]}", None, metadata, "")
            for i, ((name, metadata), vector) in enumerate(zip(documents.items(), vectors, strict=True))
        ]
    )
    return points, {point_id(name): metadata for name, metadata in documents.items()}


def assert_equal(places: list[Place], right: list[Place], close: float = 1e-4) -> None:
    assert [place.score for place in places] == pytest.approx([place.score for place in right], abs=close)
    scores = {place.point_id: place.score for place in right}
    # Scores nearly equal may change places, also with the one behind the window.
    for place in places:
        assert scores.get(place.point_id, right[-1].score) == pytest.approx(place.score, abs=close)


@pytest.mark.parametrize("lists", [False, True])
async def test_boosts_add_what_plain_python_adds(store: Store, lists: bool) -> None:
    random = np.random.default_rng(5)
    points, metadata = await fill(store, random, lists)
    for turn in range(24):
        vector = random.standard_normal(D).astype(np.float32)
        words = WordMatch("red star")
        ranking = [Nearest(vector), Nearest(vector), words, Hybrid(Nearest(vector), words, ReciprocalRanks(60), 40)]
        count = int(random.integers(1, 4))
        boosts = tuple(random_boost(random, declared=turn % 3 > 0) for _ in range(count))
        criterion = Boosted(ranking[turn % 4], boosts, CANDIDATES)
        condition = None if turn % 2 else Range("price", gt=5.0)
        threshold = None if turn % 5 else 0.1
        window = SearchWindow(int(random.integers(1, 30)), int(random.integers(0, 20)), condition, threshold)
        plain = await points.rank(criterion.ranking, SearchWindow(CANDIDATES, condition=condition))
        right = boosted(criterion, plain, metadata, window)
        places = list(await points.rank(criterion, window))
        assert_equal(places, right)
        hits = await points.search(criterion, window)
        assert [point_id(hit.document_id) for hit in hits] == [place.point_id for place in places]


async def test_numbers_out_of_range_are_bounded(store: Store) -> None:
    await store.create("c", D, DECLARED)
    points = store.points("c")
    vector = np.ones(D, np.float32)
    await points.upsert(
        [Point(f"d{i}", vector, None, None, {"price": price}, "") for i, price in enumerate([1e9, -1e9])]
    )
    places = await points.rank(Boosted(Nearest(vector), (FieldBoost("price", 1e300),), 10), SearchWindow(10))
    assert [place.score for place in places] == [1e300, -1e300]


def test_the_embedded_engine_computes_boosts_of_declared_fields_without_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rankings whose metadata were read.
    read: list[str] = []
    rows = Reader.rows

    def counted(reader: Reader, name: str, *arguments: Any) -> Any:
        read.append(name)
        return rows(reader, name, *arguments)

    monkeypatch.setattr(Reader, "rows", counted)
    shards = Shards(tmp_path)
    shards.create("c", D, DECLARED)
    vector: Float32 = np.ones(D, np.float32)

    def write(**documents: Mapping[str, Any]) -> None:
        shards.upsert("c", [Point(name, vector, None, None, metadata, "") for name, metadata in documents.items()])

    def scores(*boosts: Boost) -> dict[str, float]:
        places = shards.reader.rank("c", Boosted(Nearest(vector), boosts, 10), SearchWindow(10))
        return {place.point_id: round(place.score, 5) for place in places}  # type: ignore[union-attr]

    write(a={"price": 3}, b={"price": "x"}, c={})
    a, b, c, d = map(point_id, "abcd")
    try:
        assert scores(FieldBoost("price", 2.0)) == {a: 7.0, b: 1.0, c: 1.0}
        assert len(read) == 0
        assert scores(FieldBoost("size", 2.0)) == {a: 1.0, b: 1.0, c: 1.0}
        assert len(read) == 1
        # A failure that passes says nothing of the field.
        with monkeypatch.context() as patched:
            patched.setattr(reading, "rank_by_formula", Mock(side_effect=Exception("no memory")))
            assert scores(FieldBoost("price", 2.0)) == {a: 7.0, b: 1.0, c: 1.0}
            assert len(read) == 2
        assert scores(FieldBoost("price", 2.0)) == {a: 7.0, b: 1.0, c: 1.0}
        assert len(read) == 2
        write(d={"price": [1, 5]})
        assert scores(FieldBoost("price", 2.0)) == {a: 7.0, b: 1.0, c: 1.0, d: 11.0}
        assert len(read) == 3
        with monkeypatch.context() as patched:
            patched.setattr(reading, "rank_by_formula", formula := Mock())
            assert scores(FieldBoost("price", 2.0)) == {a: 7.0, b: 1.0, c: 1.0, d: 11.0}
        assert (len(read), formula.call_count) == (4, 0)
        assert scores(FilterBoost(Range("price", gt=4.0), 1.0)) == {a: 1.0, b: 1.0, c: 1.0, d: 2.0}
        assert len(read) == 4
    finally:
        shards.close()
