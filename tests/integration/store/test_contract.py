"""What every store promises, run over each of them: compared with NumPy and with `filters.matches` on random data.

A store equal to plain Python is equal to every other. Set RET2_TEST_QDRANT_URL to run it over a server too, by gRPC and by REST;
its own collections are removed afterwards. `memory` is the client's own engine behind the server store, and `rest` that engine in
another process, so that what is sent goes through HTTP and JSON.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from declared_indexes import unfinished_indexes
from filter_strategies import BEYOND_DOUBLES, NUMBERS, corpus, every_leaf, filters, metadata
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from store_cases import CASES
from stores import SERVERS

from indexer.domain.documents import point_id
from indexer.domain.points import NO_VECTOR, Hit, MetadataChange, Point
from indexer.filters import (
    AllOf,
    AnyOf,
    DateRange,
    Equals,
    FieldType,
    Filter,
    GeoRadius,
    In,
    Not,
    Range,
    elements,
)
from indexer.filters.meaning import matches
from indexer.filters.values import read_moment
from indexer.store.base import Consistency, Points, SearchWindow, Store, Summary
from indexer.store.criteria import Nearest, WordMatch
from indexer.store.edge.client import EdgeStore
from indexer.store.server.store import ServerStore
from model.errors import Conflict, InvalidInput, NotFound
from model.types import Float32
from service.search.modes import RankedSearch, RankingMode
from service.search.paging import Mark, Pager

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

D = 16
N = 300


@pytest.fixture
def compared(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Counts one case of the store at hand."""
    name = request.node.callspec.params["store"]

    def count() -> None:
        CASES[name] += 1

    return count


@pytest.fixture
async def points(store: Store) -> Points:
    await store.create("c", D)
    return store.points("c")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_vector(random: np.random.Generator) -> Float32:
    return random.standard_normal(D).astype(np.float32)


VALUES = [
    1,
    1.0,
    2,
    2.5,
    -3,
    0,
    True,
    False,
    "1",
    "Europe",
    "",
    "é",
    None,
    [],
    [1, "Europe", True],
    [2.5, None],
    [[1]],
    {"y": 1},
]
VALUES += [2**53 - 1, "true"]
FIELDS = ["x", "a b", "n.y", "n.deep.z", "br[0]", "x'y", "absent"]


def random_metadata(random: np.random.Generator) -> dict[str, Any]:
    def value() -> Any:
        return VALUES[random.integers(len(VALUES))]

    nested = [{"y": value(), "deep": {"z": value()}}, [{"y": value()}], value()]
    metadata = {
        "x": value(),
        "a b": value(),
        "n": nested[random.integers(3)],
        "br[0]": value(),
        "x'y": value(),
        "n.y": value(),
    }
    return {key: value for key, value in metadata.items() if random.random() < 0.8}


def random_filter(random: np.random.Generator, depth: int = 3) -> Filter:
    def pick(*options: Any) -> Any:
        return options[random.integers(len(options))]

    field = pick(*FIELDS)
    scalars = [each for each in VALUES if isinstance(each, str | int | float)]
    match random.integers(7 if depth else 4):
        case 0:
            return Equals(field, pick(*scalars))
        case 1:
            return In(field, pick(("Europe", "1"), ("é",), ()))
        case 2:
            return In(field, pick((1, 2), (2**53 - 1, 0), (-(2**63),)))
        case 3:
            low, high = pick(None, 0.0, 1.0, float(2**53 - 1)), pick(None, 1.0, 2.5, float(2**63))
            return Range(field, **{pick("gt", "gte"): low, pick("lt", "lte"): high})
        case 4:
            return Not(random_filter(random, depth - 1))
        case kind:
            of = tuple(random_filter(random, depth - 1) for _ in range(random.integers(0, 4)))
            return AllOf(of) if kind == 5 else AnyOf(of)


def make_points(n: int = N, seed: int = 0) -> list[Point]:
    random = rng(seed)
    return [
        Point(
            document_id=f"doc/{i} ü",
            vector=random_vector(random) * np.float32(random.uniform(0.1, 10)),
            text=None if i % 7 == 0 else f"text {i} ☃",
            image_digest=None if i % 3 else f"{i:064x}",
            metadata=random_metadata(random),
            content_hash=f"hash {i}",
        )
        for i in range(n)
    ]


def unit(vector: Float32) -> Float32:
    return vector / np.linalg.norm(vector)


def expected(points: list[Point], query: Float32, condition: Filter | None = None) -> list[tuple[str, float]]:
    """Every match as (document id, cosine), best first."""
    kept = [each for each in points if condition is None or matches(condition, each.metadata)]
    return sorted(
        ((each.document_id, float(unit(each.vector) @ unit(query))) for each in kept),
        key=lambda hit: (-hit[1], point_id(hit[0])),
    )


def assert_hits(hits: list[Hit], wanted: list[tuple[str, float]]) -> None:
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in wanted], atol=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [hit.document_id for hit in hits] == [document_id for document_id, _ in wanted]


async def test_search_is_the_cosine_ranking(points: Points) -> None:
    data = make_points()
    await points.upsert(data)
    by_id = {each.document_id: each for each in data}
    for seed in range(20):
        query = random_vector(rng(100 + seed)) * 50
        hits = await points.search(Nearest(query), SearchWindow(limit=10))
        assert_hits(hits, expected(data, query)[:10])
        for hit in hits:
            point = by_id[hit.document_id]
            assert (hit.text, hit.image_digest, hit.metadata) == (point.text, point.image_digest, point.metadata)
            assert hit.vector is None


async def test_search_with_filters_keeps_what_matches(points: Points, compared: Callable[[], None]) -> None:
    data = make_points()
    await points.upsert(data[: N // 2])
    random = rng(1)
    sizes = set()
    for i in range(400):
        if i == 100:  # a store may have learnt from the filters so far
            await points.upsert(data[N // 2 :])
        present = data if i >= 100 else data[: N // 2]
        condition, query = random_filter(random), random_vector(random)
        wanted = expected(present, query, condition)
        hits = await points.search(Nearest(query), SearchWindow(limit=N, condition=condition))
        assert {hit.document_id for hit in hits} == {document_id for document_id, _ in wanted}, condition
        assert_hits(hits[:50], wanted[:50])
        compared()
        sizes.add(len(wanted))
    assert len(sizes) > 20, "the random filters no longer tell anything apart"


SLOW_FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture
async def loaded(points: Points) -> list[Point]:
    """One point for each document of the corpus, the scores far apart."""
    documents = corpus()
    angles = np.linspace(0, np.pi, len(documents))
    vectors = np.stack([np.cos(angles), np.sin(angles), *np.zeros((D - 2, len(documents)))], axis=1).astype(np.float32)
    data = [Point(f"d{i:03}", vectors[i], None, None, each, "") for i, each in enumerate(documents)]
    await points.upsert(data)
    return data


@settings(max_examples=200, suppress_health_check=SLOW_FIXTURES)
@given(condition=filters())
@example(condition=GeoRadius("x", 52.52, 13.405, 870_000.0))  # Berlin to Paris are 877 km
@example(condition=GeoRadius("x", 52.52, 13.405, 880_000.0))
async def test_random_filters_over_every_kind_of_value(
    points: Points, loaded: list[Point], compared: Callable[[], None], condition: Filter
) -> None:
    wanted = {each.document_id for each in loaded if matches(condition, each.metadata)}
    hits = await points.search(Nearest(loaded[0].vector), SearchWindow(limit=len(loaded), condition=condition))
    assert {hit.document_id for hit in hits} == wanted
    compared()


@settings(max_examples=60, suppress_health_check=SLOW_FIXTURES)
@given(
    documents=st.lists(metadata(), min_size=1, max_size=8),
    conditions=st.lists(filters(), min_size=1, max_size=4),
    seed=st.integers(0, 20),
)
async def test_random_data_and_random_filters(
    points: Points,
    compared: Callable[[], None],
    documents: list[dict[str, Any]],
    conditions: list[Filter],
    seed: int,
) -> None:
    """Three vectors among all documents: the rest of the order is that of equal scores."""
    random = rng(seed)
    vectors, query = [random_vector(random) for _ in range(3)], random_vector(random)
    data = [Point(f"d{i}", vectors[i % 3], None, None, each, "") for i, each in enumerate(documents)]
    await points.delete([f"d{i}" for i in range(8)])
    await points.upsert(data)
    for condition in conditions:
        wanted = expected(data, query, condition)
        hits = await points.search(Nearest(query), SearchWindow(limit=8, condition=condition))
        assert_same(hits, wanted)
        window = await points.search(Nearest(query), SearchWindow(limit=2, offset=1, condition=condition))
        assert [hit.document_id for hit in window] == [hit.document_id for hit in hits[1:3]]
        compared()


@pytest.mark.parametrize("kind", FieldType)
@pytest.mark.parametrize("state", ["being built", "built"])
async def test_filters_mean_the_same_whatever_is_indexed(
    store: Store, compared: Callable[[], None], request: pytest.FixtureRequest, state: str, kind: FieldType
) -> None:
    """Without an index: the other tests of filters."""
    if {"memory", "rest", "fake"} & set(request.node.callspec.params.values()):
        pytest.skip("this store has no indexes")
    fields = ("x", "o.x", '"d.t"')
    declared = dict.fromkeys(fields, kind)
    await store.create("c", D, declared if state == "built" else None)
    points = store.points("c")
    documents = corpus([*NUMBERS, *BEYOND_DOUBLES])
    vector = random_vector(rng(17))
    await points.upsert([Point(f"d{i}", vector, None, None, each, "") for i, each in enumerate(documents)])
    if state == "being built":
        await store.create("c", D, declared)
    clash = {FieldType.NUMBER: DateRange, FieldType.DATETIME: (Range, Equals, In)}.get(kind, ())
    for condition in [leaf for field in fields for leaf in every_leaf(field)]:
        wanted = {f"d{i}" for i, each in enumerate(documents) if matches(condition, each)}
        try:
            hits = await points.search(Nearest(vector), SearchWindow(limit=len(documents), condition=condition))
        except InvalidInput:
            assert isinstance(condition, clash), condition
            continue
        assert {hit.document_id for hit in hits} == wanted, condition
        compared()
    async with asyncio.timeout(20):
        while await unfinished_indexes(store, "c", declared):  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.1)
    assert await unfinished_indexes(store, "c", {**declared, "absent": kind}) == ["absent"]


async def test_numbers_come_back_as_they_were_posted(
    points: Points, compared: Callable[[], None], request: pytest.FixtureRequest
) -> None:
    random = rng(31)
    doubles = [
        float(each) for each in [*random.random(400), *(random.random(200) * 10.0 ** random.integers(-30, 30, 200))]
    ]
    numbers = [*doubles, *NUMBERS, *BEYOND_DOUBLES, 3802147378782530, 3802147378782530.0, 2**63, 1e300, -0.1, 5e-324]
    vector = random_vector(random)
    data = [
        Point(f"d{i}", vector, None, None, {"n": number, "o": {"l": [number, [number], {"n": number}, "é"]}}, "")
        for i, number in enumerate(numbers)
    ]
    await points.upsert(data)
    fetched = await points.fetch([each.document_id for each in data])
    for point, back in zip(data, fetched, strict=True):
        assert back is not None
        # A server may order the keys otherwise.
        assert repr(sorted(back.metadata.items())) == repr(sorted(point.metadata.items()))
    local_mode = {"memory", "rest"} & set(request.node.callspec.params.values())
    for number in [*doubles[::40], *numbers[len(doubles) :]]:
        if local_mode and isinstance(number, float) and number in BEYOND_DOUBLES:
            # The client's local mode tells such a double from the whole numbers beside it, the engines do not.
            continue
        condition = Equals("n", number)
        hits = await points.search(Nearest(vector), SearchWindow(limit=50, condition=condition))
        assert {hit.document_id for hit in hits} == {
            each.document_id for each in data if matches(condition, each.metadata)
        }
        if isinstance(number, float):
            for bounds in ({"gte": number}, {"lte": number}, {"gt": number}, {"lt": number}):
                window = SearchWindow(limit=len(data), condition=Range("n", **bounds))
                hits = await points.search(Nearest(vector), window)
                present = {hit.document_id for hit in hits}
                assert ({f"d{numbers.index(number)}"} <= present) == ("gte" in bounds or "lte" in bounds), (
                    number,
                    bounds,
                )
        compared()


def assert_same(hits: list[Hit], wanted: list[tuple[str, float]]) -> None:
    """Equal ids, order and scores to 1e-4; those whose scores are so close are equal as sets."""
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in wanted], atol=1e-4)
    steps = [i for i in range(1, len(wanted)) if wanted[i - 1][1] - wanted[i][1] > 1e-4]
    for start, end in zip([0, *steps], [*steps, len(wanted)], strict=True):
        assert {hit.document_id for hit in hits[start:end]} == {document_id for document_id, _ in wanted[start:end]}


async def test_a_field_asked_for_as_number_and_as_time_answers_both(points: Points) -> None:
    """An index of the one kind would answer questions of the other, wrongly."""
    vector = random_vector(rng(11))
    values = [5, 1714521600, "2024-05-01T00:00:00Z", [7, "2024-05-01"], "5", None]
    data = [Point(f"d{i}", vector, None, None, {"x": each, "y": each}, "") for i, each in enumerate(values)]
    await points.upsert(data)
    numbers, times = Range("", gte=5.0), DateRange("", gte=read_moment("2024-01-01"))
    for field, kinds in (("x", (numbers, times, numbers)), ("y", (times, numbers, times))):
        for kind in kinds:
            condition = replace(kind, field=field)
            hits = await points.search(Nearest(vector), SearchWindow(limit=10, condition=condition))
            assert [hit.document_id for hit in hits] == [i for i, _ in expected(data, vector, condition)], condition


async def test_of_two_bounds_on_a_side_the_tighter_counts(points: Points, compared: Callable[[], None]) -> None:
    """Given both `gt` and `gte`, Qdrant's index looks at `gt` alone."""
    vector, days = random_vector(rng(13)), [read_moment(f"2024-05-0{i}") for i in range(1, 6)]
    values = [{"n": i, "day": f"2024-05-0{i}"} for i in range(1, 6)]
    data = [Point(f"d{i}", vector, None, None, each, "") for i, each in enumerate(values)]
    await points.upsert(data)
    for low, high in ((1, 4), (4, 1), (3, 3)):
        for more, most in (("gt", "gte"), ("lt", "lte")):
            conditions: list[Filter] = [
                Range("n", **{more: float(low), most: float(high)}),
                DateRange("day", **{more: days[low - 1], most: days[high - 1]}),
            ]
            for condition in conditions:
                assert_same(
                    await points.search(Nearest(vector), SearchWindow(limit=9, condition=condition)),
                    expected(data, vector, condition),
                )
                compared()


async def test_whole_numbers_beyond_doubles(
    points: Points, compared: Callable[[], None], request: pytest.FixtureRequest
) -> None:
    if {"memory", "rest"} & set(request.node.callspec.params.values()):
        pytest.skip("the client's local mode compares whole numbers exactly in a range, the engines as doubles")
    vector = random_vector(rng(12))
    data = [
        Point(f"d{i}", vector, None, None, {"x": each}, "")
        for i, each in enumerate([*BEYOND_DOUBLES, *NUMBERS, "1", [2**53 + 1, 1], [-(2**63)]])
    ]
    await points.upsert(data)
    numbers = [*BEYOND_DOUBLES, *NUMBERS]
    conditions: list[Filter] = [Equals("x", each) for each in numbers]
    conditions += [Range("x", gte=float(each), lte=float(each)) for each in numbers]
    conditions += [In("x", (each, 1)) for each in numbers if isinstance(each, int)]
    for condition in conditions:
        assert_same(
            await points.search(Nearest(vector), SearchWindow(limit=N, condition=condition)),
            expected(data, vector, condition),
        )
        compared()


async def test_equals_tells_types_apart(points: Points) -> None:
    data = make_points()
    await points.upsert(data)
    for field in FIELDS:
        for value in (1, 1.0, True, False, "1", "true", 2**53 - 1, ""):
            condition = Equals(field, value)
            hits = await points.search(Nearest(data[0].vector), SearchWindow(limit=N, condition=condition))
            wanted = {each.document_id for each in data if matches(condition, each.metadata)}
            assert {hit.document_id for hit in hits} == wanted, condition


async def test_offset_walks_the_same_ranking(points: Points) -> None:
    data = make_points()
    await points.upsert(data)
    query = random_vector(rng(2))
    wanted = expected(data, query)
    for offset in (0, 1, 10, N - 3, N, N + 100):
        assert_hits(
            await points.search(Nearest(query), SearchWindow(limit=7, offset=offset)), wanted[offset : offset + 7]
        )
    assert await points.search(Nearest(query), SearchWindow(limit=0)) == []


@pytest.mark.parametrize("consistency", ["one", "majority", "quorum", "all"])
async def test_any_consistency_is_the_same_where_nothing_is_being_written(
    points: Points, consistency: Consistency
) -> None:
    data = make_points(30)
    await points.upsert(data)
    query = random_vector(rng(2))
    for offset in (0, 5):
        hits = await points.search(Nearest(query), SearchWindow(limit=7, offset=offset, consistency=consistency))
        assert_hits(hits, expected(data, query)[offset : offset + 7])


async def test_a_search_that_nobody_waits_for_harms_no_other(points: Points) -> None:
    data = make_points(60)
    await points.upsert(data)
    query = random_vector(rng(2))
    condition = Not(Equals("absent", 1))
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await points.search(Nearest(query), SearchWindow(limit=7, condition=condition, timeout_s=0.0))
    for timeout_s in (1.5, 30.0, None):
        found = await asyncio.gather(
            *(
                points.search(Nearest(query), SearchWindow(limit=7, condition=each, timeout_s=timeout_s))
                for each in (condition, None)
            )
        )
        for hits in found:
            assert_hits(hits, expected(data, query)[:7])


def asked(points: Points, query: Float32, condition: Filter | None = None) -> Pager:
    """As a search walks it."""
    ranked = RankedSearch(points, RankingMode(), query, options=SearchWindow(0, condition=condition))
    return Pager(ranked, frozenset(), 10_000)


async def test_cursors_walk_the_same_ranking(points: Points, compared: Callable[[], None]) -> None:
    """Every third vector is another one's: the pages are cut among equal scores too."""
    data = make_points(120)
    data = [replace(each, vector=data[i % 40].vector) for i, each in enumerate(data)]
    await points.upsert(data)
    random = rng(21)
    for limit in (1, 7, 50):
        condition, query = random_filter(random), random_vector(random)
        wanted = expected(data, query, condition)
        page = await asked(points, query, condition).page(0, limit)
        hits = list(page.hits)
        while page.place is not None:
            last = page.hits[-1]
            mark = Mark(page.place, last.score, last.document_id, "")
            page = await asked(points, query, condition).after(mark, limit)
            hits += page.hits
        assert len({hit.document_id for hit in hits}) == len(hits)
        assert_same(hits, wanted)
        compared()


@pytest.mark.parametrize("field", ["x", "n.y"])
async def test_groups_are_the_same(points: Points, compared: Callable[[], None], field: str) -> None:
    data = make_points()
    await points.upsert(data)
    query = random_vector(rng(22))
    by_id = {each.document_id: each for each in data}
    groups = await asked(points, query).groups(field, 4, 5)
    best: dict[Any, list[tuple[str, float]]] = {}
    for document_id, score in expected(data, query):
        for element in dict.fromkeys(
            (isinstance(value, bool), value)
            for value in elements(by_id[document_id].metadata, field)
            if isinstance(value, str | int | float)
        ):
            best.setdefault(element, []).append((document_id, score))
    assert [(isinstance(each.value, bool), each.value) for each in groups] == list(best)[:4]
    for group, wanted in zip(groups, best.values(), strict=False):
        assert_hits(group.hits, wanted[:5])
    compared()


async def test_score_threshold(points: Points) -> None:
    data = make_points()
    await points.upsert(data)
    query = random_vector(rng(3))
    wanted = expected(data, query)
    between = (wanted[9][1] + wanted[10][1]) / 2
    assert_hits(await points.search(Nearest(query), SearchWindow(limit=N, score_threshold=between)), wanted[:10])
    assert_hits(
        await points.search(Nearest(query), SearchWindow(limit=4, offset=8, score_threshold=between)), wanted[8:10]
    )
    exactly = (await points.search(Nearest(query), SearchWindow(limit=10)))[9].score
    assert len(await points.search(Nearest(query), SearchWindow(limit=N, score_threshold=exactly))) == 10
    assert await points.search(Nearest(query), SearchWindow(limit=N, score_threshold=1.5)) == []
    assert len(await points.search(Nearest(query), SearchWindow(limit=N, score_threshold=-1.5))) == N


async def test_vectors_come_when_asked_for(points: Points) -> None:
    data = make_points(20)
    await points.upsert(data)
    (hit,) = await points.search(Nearest(data[3].vector), SearchWindow(limit=1, with_vector=True))
    assert hit.document_id == data[3].document_id
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert hit.vector is not None
    assert hit.vector.dtype == np.float32
    np.testing.assert_allclose(unit(hit.vector), unit(data[3].vector), atol=1e-6)


@pytest.mark.parametrize(("n", "limit"), [(100, 7), (3_000, 400)])
async def test_equal_scores_come_by_point_id_on_every_page(points: Points, n: int, limit: int) -> None:
    same, other = random_vector(rng(4)), random_vector(rng(5))
    ids = [f"{i:04}" for i in rng(6).permutation(n)]
    await points.upsert([Point(each, same, None, None, {}, "") for each in ids])
    await points.upsert([Point(f"x{each}", other, None, None, {}, "") for each in ids[:5]])
    pages = [
        await points.search(Nearest(same), SearchWindow(limit=limit, offset=offset)) for offset in range(0, n, limit)
    ]
    assert [hit.document_id for page in pages for hit in page][:n] == sorted(ids, key=point_id)


async def test_upsert_replaces_the_whole_point(points: Points) -> None:
    data = make_points(50)
    await points.upsert(data)
    await points.upsert(data)
    assert await points.count() == 50
    new = replace(make_points(1, seed=9)[0], document_id=data[5].document_id, metadata={"only": 1}, text=None)
    await points.upsert([new])
    assert await points.count() == 50
    (found,) = await points.fetch([new.document_id])
    assert found is not None
    assert (found.text, found.metadata, found.content_hash) == (None, {"only": 1}, new.content_hash)
    assert (await points.search(Nearest(new.vector), SearchWindow(limit=1)))[0].document_id == new.document_id


async def test_other_metadata_leave_everything_else_of_a_point(points: Points) -> None:
    data = [replace(each, text=f"shared words of {number}") for number, each in enumerate(make_points(60))]
    await points.upsert(data)
    ranked = [(hit.document_id, hit.score) for hit in await points.search(WordMatch("shared"), SearchWindow(limit=60))]
    before = {key.document_id: key for key in await points.fetch([each.document_id for each in data]) if key}
    others = [
        MetadataChange(each.document_id, {"other": number, "nested": {"list": [1, 2.5, "a"]}}, f"other-{number}")
        for number, each in enumerate(data[:40])
    ]
    await points.set_metadata([*others, MetadataChange("is not there", {"other": 1}, "other")])
    await points.set_metadata([])
    changes = {change.document_id: change for change in others}
    assert await points.count() == 60
    for point in await points.fetch([each.document_id for each in data]):
        assert point is not None
        old, change = before[point.document_id], changes.get(point.document_id)
        if change is not None:
            old = replace(old, metadata=change.metadata, content_hash=change.content_hash)
        assert replace(point, vector=NO_VECTOR) == replace(old, vector=NO_VECTOR)
        assert np.array_equal(point.vector, old.vector)
    assert await points.count(Range("other", gte=10)) == 30
    hits = await points.search(WordMatch("shared"), SearchWindow(limit=60))
    assert [(hit.document_id, hit.score) for hit in hits] == ranked
    assert len(ranked) == 60


async def test_the_last_of_one_batch_wins(points: Points) -> None:
    first, second = (replace(each, document_id="same") for each in make_points(2))
    await points.upsert([first, second])
    (found,) = await points.fetch(["same"])
    assert found is not None
    assert found.content_hash == second.content_hash
    assert await points.count() == 1


async def test_delete(points: Points) -> None:
    data = make_points(50)
    await points.upsert(data)
    gone = [each.document_id for each in data[10:20]]
    await points.delete([*gone, "never there"])
    await points.delete(gone)
    await points.delete([])
    assert await points.count() == 40
    assert await points.fetch(gone) == [None] * 10
    query = random_vector(rng(7))
    assert_hits(await points.search(Nearest(query), SearchWindow(limit=100)), expected(data[:10] + data[20:], query))
    await points.upsert(data[10:11])
    assert await points.count() == 41


async def test_fetch_answers_in_the_order_asked(points: Points) -> None:
    data = make_points(30)
    await points.upsert(data)
    asked = [data[i].document_id for i in (7, 3, 29, 7)]
    found = await points.fetch([asked[0], "absent", *asked[1:]])
    assert found[1] is None
    present = [each for each in found if each is not None]
    assert [each.document_id for each in present] == asked
    for each, i in zip(present, (7, 3, 29, 7), strict=True):
        np.testing.assert_allclose(unit(each.vector), unit(data[i].vector), atol=1e-6)
        assert each.vector.dtype == np.float32
        assert replace(each, vector=data[i].vector) == data[i]
    assert await points.fetch([]) == []


async def test_the_images_of_all_points_page_by_page(store: Store, points: Points) -> None:
    await store.create("other", D)
    await store.points("other").upsert([replace(make_points(1)[0], image_digest="f" * 64)])
    assert await points.images(None, 10) == ([], None)
    data = make_points()
    await points.upsert(data)
    found: list[str] = []
    after, pages = None, 0
    while True:
        digests, after = await points.images(after, 50)
        assert len(digests) <= 50
        found, pages = found + digests, pages + 1
        if after is None:
            break
    assert sorted(found) == sorted(each.image_digest for each in data if each.image_digest is not None)
    assert pages == N // 50


async def paged(points: Points, limit: int, condition: Filter | None = None) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = await points.page(after, limit, condition)
        assert len(page.document_ids) <= limit
        found += page.document_ids
        if page.after is None:
            return found
        after = page.after


async def test_pages_have_every_document_that_matches_once(points: Points, compared: Callable[[], None]) -> None:
    data = make_points()
    await points.upsert(data)
    random = rng(23)
    everything = await paged(points, 7)
    assert sorted(everything) == sorted(each.document_id for each in data)
    assert await paged(points, N) == await paged(points, N + 1) == everything
    for _ in range(20):
        condition = random_filter(random)
        wanted = {each.document_id for each in data if matches(condition, each.metadata)}
        assert await paged(points, 50, condition) == [each for each in everything if each in wanted], condition
        assert await points.count(condition) == len(wanted), condition
        compared()


async def test_scrolling_reads_whole_points_in_the_order_of_pages(points: Points) -> None:
    data = {each.document_id: each for each in make_points()}
    await points.upsert(list(data.values()))
    condition = random_filter(rng(29))
    for chosen, with_vectors in ((None, True), (condition, True), (condition, False)):
        scrolled: list[Point] = []
        after = None
        while True:
            stretch = await points.scroll(after, 37, chosen, with_vectors=with_vectors)
            assert len(stretch.points) <= 37
            scrolled += stretch.points
            if (after := stretch.after) is None:
                break
        assert [point.document_id for point in scrolled] == await paged(points, 50, chosen)
        fetched = await points.fetch([point.document_id for point in scrolled])
        for point, same in zip(scrolled, fetched, strict=True):
            assert same is not None
            assert replace(point, vector=NO_VECTOR) == replace(same, vector=NO_VECTOR)
            assert np.array_equal(point.vector, same.vector if with_vectors else NO_VECTOR)
        bare = await points.fetch([point.document_id for point in scrolled], with_vectors=False)
        assert all(len(point.vector) == 0 for point in bare if point is not None)
        assert [point and replace(point, vector=NO_VECTOR) for point in bare] == [
            replace(point, vector=NO_VECTOR) for point in scrolled
        ]


async def test_pages_go_on_though_documents_are_deleted(points: Points) -> None:
    data = make_points(40)
    await points.upsert(data)
    order = await paged(points, 100)
    page = await points.page(None, 10)
    await points.delete(order[5:15])
    assert page.after is not None
    following = await points.page(page.after, 100)
    assert list(following.document_ids) == order[15:]


async def test_size(store: Store, points: Points) -> None:
    await points.upsert(make_points(100))
    summaries = await store.summaries(["c", "unknown"])
    summary = summaries["c"]
    assert isinstance(summary, Summary)
    assert (summary.layout, summary.documents) == (await points.layout(), 100)
    assert summary.size_bytes is None or summary.size_bytes > 10_000
    assert (summary.size_bytes is not None) == isinstance(store, EdgeStore)
    assert isinstance(summaries["unknown"], NotFound)


async def test_an_empty_collection(points: Points) -> None:
    await points.upsert([])
    assert await points.count() == 0
    assert await points.search(Nearest(random_vector(rng())), SearchWindow(limit=5)) == []
    assert (await points.page(None, 5)).document_ids == ()
    assert (
        await points.search(
            Nearest(random_vector(rng())), SearchWindow(limit=5, condition=Equals("x", 1), score_threshold=0.1)
        )
        == []
    )


async def test_collections_are_apart(store: Store, points: Points) -> None:
    await store.create("other/../é.", 4)
    other = store.points("other/../é.")
    await other.upsert([Point("doc", np.ones(4, np.float32), None, None, {}, "")])
    assert (await points.count(), await other.count()) == (0, 1)
    await store.drop("other/../é.")
    assert await points.count() == 0
    with pytest.raises(NotFound):
        await other.count()
    await store.create("other/../é.", 8)
    assert await store.points("other/../é.").count() == 0


async def test_creating_again_changes_nothing(store: Store, points: Points) -> None:
    await points.upsert(make_points(3))
    await store.create("c", D)
    assert await points.count() == 3


async def test_declared_indexes_are_made_and_can_be_added(store: Store) -> None:
    await store.create("c", D, {"x": FieldType.KEYWORD})
    await store.create("c", D, {each.value: each for each in FieldType})
    data = make_points(20)
    await store.points("c").upsert(data)
    query = random_vector(rng(9))
    assert_hits(
        await store.points("c").search(Nearest(query), SearchWindow(limit=20, condition=Range("number", gte=1.0))),
        expected(data, query, Range("number", gte=1.0)),
    )


async def test_other_dimensions_are_a_conflict(store: Store, points: Points) -> None:
    with pytest.raises(Conflict, match=f"has {D} dimensions, not {D + 1}"):
        await store.create("c", D + 1)


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, object(), {"a"}, "\ud800"])
async def test_metadata_that_is_not_json_is_refused(points: Points, value: object, request: Any) -> None:
    if "fake" in request.node.callspec.params.values():
        pytest.skip("the fake keeps any Python value")
    with pytest.raises(InvalidInput):
        await points.upsert([*make_points(3), replace(make_points(1)[0], metadata={"x": [value]})])
    assert await points.count() == 0


async def test_an_unknown_collection_is_found_missing_on_use(store: Store) -> None:
    unknown = store.points("unknown")
    with pytest.raises(NotFound):
        await unknown.count()
    with pytest.raises(NotFound):
        await unknown.upsert(make_points(1))
    with pytest.raises(NotFound):
        await unknown.delete(["a"])
    with pytest.raises(NotFound):
        await unknown.fetch(["a"])
    with pytest.raises(NotFound):
        await unknown.search(Nearest(random_vector(rng())), SearchWindow(limit=1))
    await store.drop("unknown")


BAD_VECTORS = {
    "too short": np.ones(D - 1, np.float32),
    "too long": np.ones(D + 1, np.float32),
    "two axes": np.ones((1, D), np.float32),
    "NaN": np.where(np.arange(D) == 3, np.nan, 1).astype(np.float32),
    "infinite": np.where(np.arange(D) == 3, np.inf, 1).astype(np.float32),
    "zero": np.zeros(D, np.float32),
}


@pytest.mark.parametrize("bad", BAD_VECTORS.values(), ids=BAD_VECTORS)
async def test_a_bad_vector_is_refused_and_harms_nothing(points: Points, bad: Float32) -> None:
    good = make_points(5)
    await points.upsert(good)
    with pytest.raises(InvalidInput):
        await points.upsert([replace(good[0], document_id="new"), replace(good[1], vector=bad)])
    with pytest.raises(InvalidInput):
        await points.search(Nearest(bad), SearchWindow(limit=1))
    assert await points.count() == 5
    assert await points.fetch(["new"]) == [None]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
async def test_length_does_not_matter(points: Points, scale: float) -> None:
    data = make_points(20)
    await points.upsert([replace(each, vector=unit(each.vector) * np.float32(scale)) for each in data])
    query = unit(random_vector(rng(8))) * np.float32(scale)
    hits = await points.search(Nearest(query), SearchWindow(limit=5))
    assert_hits(hits, expected(data, query / np.float32(scale))[:5])


async def test_ping(store: Store) -> None:
    await store.ping()


@pytest.mark.parametrize("store", SERVERS, indirect=True)  # those that have a server
async def test_a_server_says_whether_indexing_is_deferred(store: ServerStore) -> None:
    await store.create("c", D)
    changed = [await store.defer_indexing("c", deferred) for deferred in (False, True, True, False, False)]
    assert changed == [False, True, False, True, False]
