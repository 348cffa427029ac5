"""Pages of documents: their cursors, their bounds, and what they promise while others write."""

import random
from dataclasses import replace

import numpy as np
import pytest
from fake_store import FakeStore

from indexer.domain.collections import Collection
from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.filters import Equals
from model.errors import InvalidInput
from service.search.scroll import Cursor, PageReader, read_cursor, walk_of

FLAGS = Collection("flags", "f" * 64, "model", 4, 1.0)


class Unbounded:
    def grow_to(self, size_bytes: int) -> None: ...


def point(document_id: str) -> Point:
    return Point(document_id, np.ones(4, np.float32), "text", None, {}, "hash")


@pytest.fixture
async def store() -> FakeStore:
    store = FakeStore()
    await store.create("flags", 4)
    return store


async def walk(reader: PageReader, limit: int) -> list[list[str]]:
    pages, after = [], None
    while True:
        documents, after = await reader.read(
            after, limit, None, lambda point: point.document_id.encode(), with_vectors=False
        )
        pages.append([document.decode() for document in documents])
        if after is None:
            return pages


@pytest.mark.parametrize("limit", [1, 7, 256, 300, 1000])
async def test_every_document_exactly_once(store: FakeStore, limit: int) -> None:
    ids = [f"d{number}" for number in range(600)]
    await store.points("flags").upsert([point(key) for key in ids])
    pages = await walk(PageReader(store.points("flags"), 10**6, Unbounded()), limit)
    assert [key for page in pages for key in page] == sorted(ids, key=point_id)
    assert {len(page) for page in pages[:-1]} <= {limit}


async def test_a_page_ends_before_it_has_too_many_bytes_and_the_next_goes_on(store: FakeStore) -> None:
    ids = [f"d{number:03}" for number in range(100)]
    await store.points("flags").upsert([point(key) for key in ids])
    pages = await walk(PageReader(store.points("flags"), 10, Unbounded()), 50)
    assert {len(page) for page in pages} == {2}
    assert sorted(key for page in pages for key in page) == ids
    pages = await walk(PageReader(store.points("flags"), 1, Unbounded()), 50)
    assert {len(page) for page in pages} == {1}, "a document over the bound has a page of its own"


async def test_what_stands_all_the_while_comes_exactly_once_whatever_is_written(store: FakeStore) -> None:
    rng = random.Random(5)
    points = store.points("flags")
    standing = {f"s{number}" for number in range(200)}
    await points.upsert([point(key) for key in standing])
    reader = PageReader(points, 10**6, Unbounded())
    walked: list[str] = []
    after = None
    while True:
        documents, after = await reader.read(
            after, 9, None, lambda point: point.document_id.encode(), with_vectors=False
        )
        walked += [document.decode() for document in documents]
        if after is None:
            break
        passing = [f"p{rng.randrange(100)}" for _ in range(20)]
        await points.upsert([point(key) for key in passing[:10]])
        await points.delete(passing[10:])
    assert sorted(key for key in walked if key in standing) == sorted(standing)


def test_a_cursor_belongs_to_its_collection_its_time_and_its_filter() -> None:
    condition = Equals("region", "Europe")
    first = point_id("fr")
    cursor = Cursor(first, walk_of(FLAGS, condition)).text()
    assert read_cursor(cursor, walk_of(FLAGS, condition)) == first
    reindexed = replace(FLAGS, generation=1, fingerprint="0" * 64, model="another", dimensions=8)
    assert read_cursor(cursor, walk_of(reindexed, condition)) == first, "a reindex changes no point's place"
    others = (
        walk_of(FLAGS, None),
        walk_of(FLAGS, Equals("region", "Asia")),
        walk_of(replace(FLAGS, name="nations"), condition),
        walk_of(replace(FLAGS, created_at=2.0), condition),
    )
    for other in others:
        with pytest.raises(InvalidInput, match="another collection or another filter"):
            read_cursor(cursor, other)


@pytest.mark.parametrize("cursor", ["", "x", "e30", "WzFd", "WyJhIiwiYiJd", "WzEsMl0", "é", "bnVsbA"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="not made by this call"):
        read_cursor(cursor, walk_of(FLAGS, None))
