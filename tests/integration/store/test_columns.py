"""What every store promises of sorting and facets, run over each of them: compared with plain Python on random metadata.

The stores of `stores`, as those of `test_contract`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from indexer.domain.documents import point_id
from indexer.domain.points import MetadataChange, Point
from indexer.errors import IndexUnfinished
from indexer.filters import Equals, FieldType, Filter, Range, elements
from indexer.filters.meaning import matches
from indexer.filters.values import is_number, read_moment
from indexer.store.base import Points, Store
from indexer.store.columns import FieldUse
from indexer.store.edge.client import EdgeStore
from model.errors import InvalidInput
from service.search.browsing import Browser
from service.search.facets import Facets
from service.search.sorting import Entry, SortKey

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

D, N = 4, 160
DECLARED = {
    "brand": FieldType.KEYWORD,
    "price": FieldType.NUMBER,
    "made.at": FieldType.DATETIME,
    "new": FieldType.BOOL,
}
# Declared, not declared, and in a list.
ORDERS = [
    ["price"],
    ["-price"],
    ["made.at"],
    ["-made.at"],
    ["price", "-brand"],
    ["-made.at", "size", "price"],
    ["brand"],
    ["-size"],
    ["new", "brand", "-price"],
]


def random_metadata(random: np.random.Generator) -> dict[str, Any]:
    def pick(*options: Any) -> Any:
        return options[random.integers(len(options))]

    price = round(float(random.integers(0, 40)) / 4, 2)
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=int(random.integers(0, 20)))
    metadata = {
        "brand": pick("Ada", "Bell", "Ada", ["Bell", "Ada", "Ada"], "Ćwik", 7, None),
        "price": pick(price, price, int(price), [price, price + 3, 1], "12", None, []),
        "made": {"at": pick(moment.isoformat(), moment.strftime("%Y-%m-%d"), "long ago", None)},
        "new": pick(True, False, True, "yes"),
        "size": pick(1, 2.5, "XL", True, ["S", 3], {"eu": 40}),
        'pla"ce'.replace('"', ""): "x",
    }
    return {key: value for key, value in metadata.items() if random.random() < 0.85}


@pytest.fixture
async def filled(store: Store) -> tuple[Points, dict[str, dict[str, Any]]]:
    random = np.random.default_rng(3)
    documents = {f"d{i:03}": random_metadata(random) for i in range(N)}
    await store.create("c", D, DECLARED)
    points = store.points("c")
    vectors = random.standard_normal((N, D)).astype(np.float32)
    await points.upsert(
        [Point(name, vectors[i], None, None, metadata, "") for i, (name, metadata) in enumerate(documents.items())]
    )
    return points, documents


def keys_of(order: list[str]) -> list[SortKey]:
    fields = [(part.removeprefix("-"), part.startswith("-")) for part in order]
    return [SortKey(field, descending, DECLARED.get(field)) for field, descending in fields]


def plain_value(metadata: Mapping[str, Any], field: str, *, descending: bool) -> tuple[int, Any] | None:
    """Written apart from `SortKey.value`."""
    declared, values = DECLARED.get(field), []
    for element in elements(metadata, field):
        if isinstance(element, bool):
            values.append((0, element, FieldType.BOOL))
        elif is_number(element):
            values.append((1, element, FieldType.NUMBER))
        elif isinstance(element, str) and declared == FieldType.DATETIME:
            values += [(2, moment, FieldType.DATETIME)] if (moment := read_moment(element)) else []
        elif isinstance(element, str):
            values.append((3, element, FieldType.KEYWORD))
    fitting = [(rank, value) for rank, value, kind in values if declared in (None, kind)]
    return (max if descending else min)(fitting) if fitting else None


def plain_order(documents: Mapping[str, Mapping[str, Any]], order: list[str], condition: Filter | None) -> list[str]:
    names = sorted((n for n in documents if condition is None or matches(condition, documents[n])), key=point_id)
    for part in reversed(order):
        field, descending = part.removeprefix("-"), part.startswith("-")
        valued = {name: plain_value(documents[name], field, descending=descending) for name in names}
        having = [name for name in names if valued[name] is not None]
        having.sort(key=lambda name: valued[name], reverse=descending)  # type: ignore[arg-type, return-value]
        names = having + [name for name in names if valued[name] is None]
    return [point_id(name) for name in names]


async def walked(browser: Browser, size: int) -> list[str]:
    """Every page behind the mark of the one before, as a cursor carries it."""
    ids: list[str] = []
    mark: Entry | None = None
    while entries := await browser.entries(mark, size):
        ids += [entry.point_id for entry in entries]
        mark = Entry.read(entries[-1].wire())
    return ids


async def test_pages_of_a_sorted_list_are_the_whole_in_order(filled: Any) -> None:
    points, documents = filled
    conditions: list[Filter] = [Equals("brand", "Ada"), Range("price", gt=2.5), Equals("size", "XL")]
    for number, order in enumerate(ORDERS):
        for condition, size in ((None, 17), (conditions[number % 3], 1_000)):
            browser = Browser(points.columns, keys_of(order), condition)
            assert await walked(browser, size) == plain_order(documents, order, condition), (order, condition)


async def test_a_page_begins_behind_a_document_that_is_gone(filled: Any) -> None:
    points, documents = filled
    browser = Browser(points.columns, keys_of(["-price"]))
    whole = plain_order(documents, ["-price"], None)
    names = {point_id(name): name for name in documents}
    first = await browser.entries(None, 40)
    await points.delete([names[whole[39]], names[whole[40]]])
    assert [entry.point_id for entry in await browser.entries(first[-1], 5)] == whole[41:46]


async def test_facets_count_as_python_does(filled: Any) -> None:
    points, documents = filled
    await assert_facets(points, documents)
    random = np.random.default_rng(4)
    names = list(documents)
    await points.delete(names[::7])
    await points.set_metadata([MetadataChange(name, random_metadata(random), "") for name in names[1::7]])
    vector = np.ones(D, np.float32)
    await points.upsert([Point(name, vector, None, None, random_metadata(random), "") for name in names[2::7]])
    read = [point for point in await points.fetch(names) if point is not None]
    await assert_facets(points, {point.document_id: dict(point.metadata) for point in read})


async def assert_facets(points: Points, documents: Mapping[str, dict[str, Any]]) -> None:
    for condition in (None, Equals("brand", "Ada"), Range("price", gt=2.5), Equals("size", "XL"), Equals("brand", "?")):
        counting = Facets(points, DECLARED, condition, 2)
        facets = {facet["field"]: facet for facet in (await counting.of_condition([*DECLARED, "size", "absent"]))[1]}
        chosen = [metadata for metadata in documents.values() if condition is None or matches(condition, metadata)]
        for field, kinds in {"brand": (str,), "new": (bool,), "size": (str, bool), "absent": ()}.items():
            counts: Counter[Any] = Counter()
            for metadata in chosen:
                counts.update({value for value in elements(metadata, field) if type(value) in kinds})
            listed = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
            values = [(one["value"], one["count"]) for one in facets[field]["values"]]
            assert values == listed[:2], (field, condition)
            assert facets[field]["has_more"] == (len(listed) > 2)
            assert facets[field]["exact"]
        for field, least in {"price": 2.25, "made.at": "2026-01-04T00:00:00Z"}.items():
            assert_spread(facets[field], [spread_values(metadata, field) for metadata in chosen])
            assert condition is not None or facets[field]["min"] <= least
        ids = [point_id(name) for name, metadata in documents.items() if metadata in chosen]
        again = await counting.of_points([*DECLARED, "size", "absent"], ids, exact=True)
        assert again == list(facets.values()), condition


def spread_values(metadata: Mapping[str, Any], field: str) -> set[Any]:
    if field == "price":
        return {float(value) for value in elements(metadata, field) if is_number(value)}
    texts = [value for value in elements(metadata, field) if isinstance(value, str)]
    return {moment for text in texts if (moment := read_moment(text)) is not None}


def assert_spread(facet: dict[str, Any], documents: list[set[Any]]) -> None:
    """Each bucket counts the documents with a value between its edges."""
    values = set().union(*documents)
    if not values:
        assert (facet["min"], facet["max"], facet["histogram"]) == (None, None, [])
        return

    def edge(wire: Any) -> Any:
        return datetime.fromisoformat(wire) if isinstance(wire, str) else wire

    buckets = facet["histogram"]
    assert (edge(facet["min"]), edge(facet["max"])) == (min(values), max(values))
    assert (buckets[0]["low"], buckets[-1]["high"]) == (facet["min"], facet["max"])
    assert len(buckets) == 10
    for place, bucket in enumerate(buckets):
        low, high = edge(bucket["low"]), edge(bucket["high"])
        last = place == len(buckets) - 1
        inside = [any(low <= value and (value < high or last) for value in document) for document in documents]
        assert bucket["count"] == sum(inside)


async def test_rows_have_what_was_asked_for(filled: Any) -> None:
    points, documents = filled
    ids = [point_id(name) for name in ("d001", "d002", "absent")]
    rows = await points.columns.rows(ids, ["made.at"], with_vectors=True)
    assert {row.point_id: row.metadata.get("made") for row in rows} == {
        point_id(name): documents[name].get("made") for name in ("d001", "d002")
    }
    assert all(row.vector.shape == (D,) for row in rows)
    assert [row.vector for row in await points.columns.rows(ids[:1], ["price"])] == [None]


async def test_numbers_of_many_digits_are_read_as_they_were_posted(store: Store) -> None:
    await store.create("c", D)
    points = store.points("c")
    values = {"a": 0.1234567890123456, "b": 2**63 + 1, "c": 1e22, "d": {"deep": 0.1234567890123456}}
    await points.upsert([Point("x", np.ones(D, np.float32), None, None, values, "")])
    (row,) = await points.columns.rows([point_id("x")], ["a", "b", "c", "d.deep"])
    assert row.metadata == values


async def test_reading_many_documents_is_refused_with_the_index_to_declare(tmp_path: Any) -> None:
    store = EdgeStore(tmp_path / "index", readable_documents=10)
    try:
        await store.create("c", D, {"brand": FieldType.KEYWORD, "price": FieldType.NUMBER})
        points = store.points("c")
        random = np.random.default_rng(0)
        await points.upsert(
            [
                Point(f"d{i}", random.standard_normal(D).astype(np.float32), None, None, {"brand": str(i % 3)}, "")
                for i in range(30)
            ]
        )
        declared = {"brand": FieldType.KEYWORD, "price": FieldType.NUMBER}
        with pytest.raises(
            InvalidInput, match=r'the sort has no index for field size .* 30 documents, the limit is 10.*"number"'
        ):
            await Browser(points.columns, [SortKey("size")]).entries(None, 5)
        with pytest.raises(InvalidInput, match="the facet has no index for field colour"):
            await Facets(points, declared, None, 5).of_condition(["brand", "colour"])
        few = Equals("brand", "1")
        assert len(await Browser(points.columns, [SortKey("size")], few).entries(None, 50)) == 10
        assert (await Facets(points, declared, few, 5).of_condition(["colour"]))[1][0]["values"] == []
        await store.create("c", D, {"size": FieldType.NUMBER})
        use = FieldUse("the sort", "size", (FieldType.NUMBER,))
        for _ in range(200):
            try:
                assert await points.columns.index_for(use, None) == FieldType.NUMBER
                break
            except IndexUnfinished:
                await asyncio.sleep(0.02)
        else:
            pytest.fail("the index is not built")
    finally:
        await store.close()
