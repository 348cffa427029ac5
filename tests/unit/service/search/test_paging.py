"""Walking a ranking, compared with the whole of it: pages, cursors while documents come and go, groups, left-out documents."""

import base64
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.domain.documents import point_id
from indexer.domain.points import Hit
from indexer.filters import Filter
from indexer.filters.meaning import matches
from indexer.store.criteria import Place
from model.errors import InvalidInput
from service.schemas.hits import selected
from service.search.paging import Mark, Pager, read_cursor
from service.search.query import average


def hit(document_id: str, score: float, **metadata: Any) -> Hit:
    return Hit(document_id, score, None, None, metadata)


class Documents:
    """A ranking that can change; `windows` has what was asked of it, `documents_read` how many documents came whole."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self.hits = {each.document_id: each for each in hits}
        self.windows: list[tuple[int, int]] = []
        self.documents_read = 0

    def ranked(self) -> list[Hit]:
        return sorted(self.hits.values(), key=lambda each: (-each.score, point_id(each.document_id)))

    async def window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> list[Hit]:
        self.windows.append((offset, limit))
        found = [each for each in self.ranked() if extra_condition is None or matches(extra_condition, each.metadata)]
        window = found[offset : offset + limit]
        self.documents_read += len(window)
        return window

    async def places(self, offset: int, limit: int) -> list[Place]:
        self.windows.append((offset, limit))
        ranked = self.ranked()[offset : offset + limit]
        return [Place(point_id(hit.document_id), hit.score) for hit in ranked]

    async def read(self, places: Sequence[Place]) -> list[Hit]:
        self.documents_read += len(places)
        by_point = {point_id(hit.document_id): hit for hit in self.hits.values()}
        return [replace(by_point[one.point_id], score=one.score) for one in places if one.point_id in by_point]

    def ranking(self, *left_out: str, depth: int = 10_000, steady: bool = True) -> Pager:
        return Pager(self, frozenset(left_out), depth, steady)


def mark_of(page: Any) -> Mark:
    return Mark(page.place, page.hits[-1].score, page.hits[-1].document_id, "s")


async def walked(documents: Documents, limit: int, *left_out: str, between: Any = lambda: None) -> list[str]:
    """The ids of every page, by cursor from the second on."""
    page = await documents.ranking(*left_out).page(0, limit)
    ids = [each.document_id for each in page.hits]
    while page.place is not None:
        between()
        page = await documents.ranking(*left_out).after(mark_of(page), limit)
        assert len(page.hits) <= limit
        ids += [each.document_id for each in page.hits]
    return ids


scores = st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9]), max_size=40)


@given(scores=scores, limit=st.integers(1, 9), left_out=st.sets(st.integers(0, 39), max_size=4))
async def test_pages_by_cursor_and_by_offset_are_the_whole_ranking(
    scores: list[float], limit: int, left_out: set[int]
) -> None:
    documents = Documents([hit(f"d{i:02}", score) for i, score in enumerate(scores)])
    out = [f"d{i:02}" for i in left_out]
    wanted = [each.document_id for each in documents.ranked() if each.document_id not in out]
    assert await walked(documents, limit, *out) == wanted
    by_offset = [
        each.document_id
        for offset in range(0, len(wanted) + limit, limit)
        for each in (await documents.ranking(*out).page(offset, limit)).hits
    ]
    assert by_offset == wanted


@given(scores=st.lists(st.floats(0, 1), min_size=30, max_size=60), limit=st.integers(1, 7), seed=st.integers(0, 99))
async def test_what_stays_is_seen_once_whatever_comes_and_goes(scores: list[float], limit: int, seed: int) -> None:
    documents = Documents([hit(f"d{i:02}", score) for i, score in enumerate(scores)])
    chance = random.Random(seed)
    stays = {f"d{i:02}" for i in range(0, len(scores), 2)}
    come = iter(range(10_000))

    def change() -> None:
        for each in [each for each in documents.hits if each not in stays and chance.random() < 0.2]:
            del documents.hits[each]
        for _ in range(chance.randrange(4) if next(come) < 20 else 0):
            new = hit(f"n{next(come)}", chance.random())
            documents.hits[new.document_id] = new

    ids = await walked(documents, limit, between=change)
    assert len(ids) == len(set(ids))
    assert stays <= set(ids)
    kept = [each for each in ids if each in stays]
    assert kept == [each.document_id for each in documents.ranked() if each.document_id in stays]


async def test_a_page_behind_a_cursor_is_one_small_window() -> None:
    documents = Documents([hit(f"d{i:03}", 1 - i / 1000) for i in range(500)])
    first = await documents.ranking().page(400, 10)
    documents.windows.clear()
    second = await documents.ranking().after(mark_of(first), 10)
    assert [each.document_id for each in second.hits] == [f"d{i:03}" for i in range(410, 420)]
    assert documents.windows == [(409, 12)]


async def test_documents_are_read_for_the_page_alone() -> None:
    """What is skipped, for examples left out and for marks that moved, is ids and scores."""
    documents = Documents([hit(f"d{i:04}", 1 - i / 10_000) for i in range(9_000)])
    page = await documents.ranking("d0003", "d8000").page(8_500, 10)
    assert [each.document_id for each in page.hits] == [f"d{i}" for i in range(8_502, 8_512)]
    assert documents.documents_read == 11
    for steady in (True, False):
        documents.documents_read = 0
        documents.hits |= {f"n{i}": hit(f"n{i}", 2.0) for i in range(900)}
        following = await documents.ranking("d0003", "d8000", steady=steady).after(mark_of(page), 10)
        assert [each.document_id for each in following.hits] == [f"d{i}" for i in range(8_512, 8_522)]
        assert documents.documents_read == 11


async def test_documents_deleted_between_ranking_and_reading_end_no_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Documents([hit(f"d{i}", 1 - i / 100) for i in range(9)])
    page = await documents.ranking("d0").page(0, 1)
    places = documents.places

    async def places_then_deletion(offset: int, limit: int) -> list[Place]:
        ranked = await places(offset, limit)
        documents.hits.pop("d2", None)
        return ranked

    monkeypatch.setattr(documents, "places", places_then_deletion)
    following = await documents.ranking("d0").after(mark_of(page), 1)
    assert [each.document_id for each in following.hits] == ["d3"]
    assert following.place is not None
    assert [each.document_id for each in (await documents.ranking("d0").after(mark_of(following), 1)).hits] == ["d4"]


async def test_a_score_that_differs_in_its_last_digit_repeats_nothing() -> None:
    documents = Documents([hit(f"d{i}", 1 - i / 10) for i in range(6)])
    first = await documents.ranking().page(0, 2)
    for key, each in documents.hits.items():
        documents.hits[key] = hit(key, each.score - 1e-7)
    second = await documents.ranking().after(mark_of(first), 2)
    assert [each.document_id for each in second.hits] == ["d2", "d3"]


def reweighed(documents: Documents, factor: float) -> None:
    """As IDF is by any write: every score another, the order as it was."""
    documents.hits = {key: hit(key, each.score * factor) for key, each in documents.hits.items()}


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
async def test_where_scores_change_a_walk_goes_on_from_the_place_of_a_mark_that_has_gone(factor: float) -> None:
    documents = Documents([hit(f"d{i:02}", 1 - i / 100) for i in range(60)])
    ranking = documents.ranking("d55", steady=False)
    first = await ranking.page(0, 10)
    del documents.hits["d09"]
    reweighed(documents, factor)
    second = await ranking.after(mark_of(first), 10)
    assert [each.document_id for each in second.hits] == [f"d{i}" for i in range(10, 20)]
    third = await ranking.after(mark_of(second), 60)
    assert [each.document_id for each in third.hits] == [f"d{i}" for i in range(20, 60) if i != 55]
    assert third.place is None


async def test_where_scores_change_a_mark_is_found_wherever_it_moved_to() -> None:
    documents = Documents([hit(f"d{i:03}", 1 - i / 1000) for i in range(300)])
    ranking = documents.ranking(steady=False, depth=500)
    first = await ranking.page(100, 10)
    documents.hits |= {f"n{i}": hit(f"n{i}", 2.0) for i in range(50)}
    reweighed(documents, 0.1)
    second = await ranking.after(mark_of(first), 10)
    assert [each.document_id for each in second.hits] == [f"d{i}" for i in range(110, 120)]
    documents.hits = {key: each for key, each in documents.hits.items() if not key.startswith("n")}
    third = await ranking.after(mark_of(second), 10)
    assert [each.document_id for each in third.hits] == [f"d{i}" for i in range(120, 130)]


@pytest.mark.parametrize("steady", [True, False])
async def test_the_walk_ends_at_its_depth(steady: bool) -> None:
    documents = Documents([hit(f"d{i:03}", 0.5) for i in range(100)])
    first = await documents.ranking(depth=20, steady=steady).page(0, 10)
    for i in range(50):
        documents.hits[f"a{i}"] = hit(f"a{i}", 0.9)  # they push the mark beyond it
    second = await documents.ranking(depth=20, steady=steady).after(mark_of(first), 10)
    assert second.hits == [] if steady else len(second.hits) == 10
    assert (
        max(offset + limit for offset, limit in documents.windows) <= 21
    )  # the one behind it tells that there are more


# --- groups

values = st.sampled_from(
    ["Europe", "Asia", 1, 1.0, True, 2.5, None, [], {"a": 1}, ["Asia", "Africa"], ["Asia", "Asia"], [[1]]]
)


def grouped(hits: Sequence[Hit], limit: int, size: int) -> list[tuple[Any, list[str]]]:
    """The plain way."""
    groups: list[tuple[Any, list[str]]] = []
    for each in hits:
        value = each.metadata.get("v")
        for element in value if isinstance(value, list) else [value]:
            if not isinstance(element, str | int | float):
                continue
            same = [g for v, g in groups if v == element and isinstance(v, bool) == isinstance(element, bool)]
            if not same:
                groups.append((element, [each.document_id]))
            elif each.document_id not in same[0]:
                same[0].append(each.document_id)
    return [(value, ids[:size]) for value, ids in groups[:limit]]


@given(
    found=st.lists(values, max_size=150),
    limit=st.integers(1, 5),
    size=st.integers(1, 4),
    left_out=st.sets(st.integers(0, 20), max_size=3),
)
async def test_groups_are_those_of_the_whole_ranking(
    found: list[Any], limit: int, size: int, left_out: set[int]
) -> None:
    documents = Documents([hit(f"d{i:03}", (i * 7 % 13) / 13, v=value) for i, value in enumerate(found)])
    out = [f"d{i:03}" for i in left_out]
    groups = await documents.ranking(*out).groups("v", limit, size)
    kept = [each for each in documents.ranked() if each.document_id not in out]
    assert [(g.value, [each.document_id for each in g.hits]) for g in groups] == grouped(kept, limit, size)


async def test_a_group_far_behind_is_filled_and_the_search_for_groups_is_bounded() -> None:
    """Ninety-nine of one value come before the other, whose second is the last of all."""
    many = [hit(f"a{i:04}", 0.9, v="a") for i in range(2_000)]
    documents = Documents(
        [*many, hit("b1", 0.5, v="b"), *(hit(f"c{i:04}", 0.4) for i in range(500)), hit("b2", 0.1, v="b")]
    )
    groups = await documents.ranking().groups("v", 2, 2)
    assert [(g.value, [each.document_id for each in g.hits]) for g in groups] == [
        ("a", sorted((each.document_id for each in many), key=point_id)[:2]),
        ("b", ["b1", "b2"]),
    ]
    assert [g.value for g in await documents.ranking(depth=500).groups("v", 2, 2)] == ["a"]
    assert max(limit for _, limit in documents.windows) <= 1_000


# --- cursors, vectors, metadata


def test_a_cursor_comes_back_as_it_was() -> None:
    mark = Mark(7, 0.123456789, "ü/1", "abc")
    assert read_cursor(mark.cursor(), "abc") == mark
    with pytest.raises(InvalidInput, match="another search"):
        read_cursor(mark.cursor(), "other")


@pytest.mark.parametrize(
    "fields",
    [
        5,
        [1, 2],
        [1, 0.5, "d"],
        ["1", 0.5, "d", "s"],
        [1, "x", "d", "s"],
        [1, 0.5, 7, "s"],
        [0, 0.5, "d", "s"],
        [True, 0.5, "d", "s"],
        {},
    ],
)
def test_a_cursor_of_others_is_refused(fields: Any) -> None:
    text = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()
    with pytest.raises(InvalidInput, match="not made by this service") as refused:
        read_cursor(text, "s")
    assert refused.value.field == "cursor"


@pytest.mark.parametrize("text", ["", "x", "ü", "%%%", "AAAA", "a" * 4096])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not made by this service"):
        read_cursor(text, "s")


def test_the_vector_of_examples() -> None:
    a, b, c = np.eye(3, dtype=np.float32)
    assert average([a], []) is a
    np.testing.assert_array_equal(average([a, b], []), [0.5, 0.5, 0])
    np.testing.assert_array_equal(average([a], [c]), [2, 0, -1])
    np.testing.assert_array_equal(average([a, b], [b, c]), [1, 0.5, -0.5])
    assert average([a, b], [c]).dtype == np.float32


def test_selected_metadata() -> None:
    metadata = {"a": 1, "o": {"x": 1, "y": {"z": 2, "w": 3}}, "l": [{"x": 1}], "d.e": 5}
    assert selected(metadata, True) == metadata
    assert selected(metadata, False) == selected(metadata, []) == selected(metadata, ["absent", "a.b", "o.no"]) == {}
    assert selected(metadata, ["a", "o.y.z"]) == {"a": 1, "o": {"y": {"z": 2}}}
    assert selected(metadata, ["o", "o.x"])["o"] == metadata["o"]
    assert selected(metadata, ["l.x", "l", '"d.e"', "d"]) == {"l": [{"x": 1}], "d.e": 5}


def test_many_names_cost_no_more_for_each_key() -> None:
    metadata = {f"key{number}": number for number in range(6_000)}
    names = [f"a.b.c{number}" for number in range(255)] + ["key7"]
    began = time.perf_counter()
    for _ in range(200):
        assert selected(metadata, names) == {"key7": 7}
    assert time.perf_counter() - began < 2
