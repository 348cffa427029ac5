"""Documents of several parts, over each store: one point, one hit, found by its best part."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as qe

from indexer.backup import points_file
from indexer.domain.points import MAX_VALUES, Part, Point, mean_of
from indexer.filters import Equals
from indexer.store.base import Layout, Points, SearchWindow, Store
from indexer.store.criteria import LateInteraction, Nearest
from indexer.store.edge.client import EdgeStore
from indexer.store.edge.ranking import vector_params
from indexer.store.search_terms import FORMAT
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import MARK, ServerStore, creation
from model.errors import InvalidInput
from model.types import Float32

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

D = 16
SHARES = ((0.25, 0.75), (0.5, 0.5))


def rows(random: np.random.Generator, count: int) -> Float32:
    vectors = random.standard_normal((count, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_point(random: np.random.Generator, name: str, parts: int) -> Point:
    vectors = rows(random, parts)
    digest = name.encode().hex().rjust(64, "0")
    point = Point(name, mean_of(vectors), f"text of {name}", digest, {"odd": parts % 2 == 1}, "hash-" + name, SHARES)
    if parts == 1:
        return point
    kept = tuple(Part(7 * place, 7 * place + 6, 0 if place else None, SHARES) for place in range(parts))
    return replace(point, parts=kept, part_vectors=vectors, more_images=(digest[::-1],))


def make_points(count: int = 60) -> list[Point]:
    random = np.random.default_rng(5)
    return [make_point(random, f"d{place}", 1 + place % 5) for place in range(count)]


def best_scores(data: list[Point], query: Float32) -> dict[str, float]:
    scores = {point.document_id: float((point.vectors @ query).max()) for point in data}
    return dict(sorted(scores.items(), key=lambda scored: -scored[1]))


@pytest.fixture
async def points(store: Store) -> Points:
    await store.create("c", D)
    return store.points("c")


async def test_a_document_is_one_hit_by_its_best_part(points: Points) -> None:
    data = make_points()
    await points.upsert(data)
    assert (await points.layout()).parts
    assert await points.count() == len(data)
    for query in rows(np.random.default_rng(8), 5):
        expected = best_scores(data, query)
        hits = await points.search(Nearest(query), SearchWindow(limit=len(data)))
        assert [hit.document_id for hit in hits] == list(expected)
        assert [hit.score for hit in hits] == pytest.approx(list(expected.values()), abs=1e-5)
        by_id = {point.document_id: point for point in data}
        assert all(hit.parts == by_id[hit.document_id].parts for hit in hits)
        assert all(hit.more_images == by_id[hit.document_id].more_images for hit in hits)


async def test_a_window_counts_documents_whatever_parts_they_have(points: Points) -> None:
    data = make_points()
    await points.upsert(data)
    query = rows(np.random.default_rng(9), 1)[0]
    odd = {name: score for name, score in best_scores(data, query).items() if int(name[1:]) % 5 in (0, 2, 4)}
    window = SearchWindow(limit=5, offset=4, condition=Equals("odd", True))
    assert [hit.document_id for hit in await points.search(Nearest(query), window)] == list(odd)[4:9]
    threshold = list(odd.values())[6] - 1e-4
    above = await points.search(Nearest(query), replace(window, offset=0, limit=60, score_threshold=threshold))
    assert [hit.document_id for hit in above] == list(odd)[:7]


async def test_the_nearest_part_of_a_document(points: Points) -> None:
    data = make_points(12)
    await points.upsert(data)
    query = rows(np.random.default_rng(10), 1)[0]
    names = [point.document_id for point in data]
    nearest = await points.best_parts(query, [*names, "absent"])
    assert nearest[-1] is None
    for point, best in zip(data, nearest, strict=False):
        assert best is not None
        assert best[0] == int(np.argmax(point.vectors @ query))
        np.testing.assert_allclose(best[1], point.vectors[best[0]], atol=1e-6)


async def test_what_is_read_is_what_was_written(points: Points, tmp_path: Path) -> None:
    data = make_points(30)
    await points.upsert(data)
    await assert_equal(points, data)
    assert await points_file.write(points, tmp_path / "points") == len(data)
    await points.delete([point.document_id for point in data])
    assert await points_file.read(tmp_path / "points", points) == len(data)
    await assert_equal(points, data)


async def assert_equal(points: Points, data: list[Point]) -> None:
    for point, read in zip(data, await points.fetch([point.document_id for point in data]), strict=True):
        assert read is not None
        assert (read.parts, read.more_images, read.shares) == (point.parts, point.more_images, SHARES)
        np.testing.assert_allclose(read.vectors, point.vectors, atol=1e-6)
        np.testing.assert_allclose(read.vector, point.vector, atol=1e-6)
        assert (read.part_vectors is None) == (point.part_vectors is None)


async def test_a_document_written_again_has_its_new_parts_alone(points: Points) -> None:
    random = np.random.default_rng(3)
    await points.upsert([make_point(random, "a", 5)])
    for count in (2, 1, 7):
        point = make_point(random, "a", count)
        await points.upsert([point])
        (read,) = await points.fetch(["a"])
        assert read is not None
        assert read.parts == point.parts
        np.testing.assert_allclose(read.vectors, point.vectors, atol=1e-6)


async def test_all_images_of_a_document_are_listed(points: Points) -> None:
    data = make_points(7)
    await points.upsert(data)
    listed, after = await points.images(None, 100)
    assert after is None
    assert sorted(listed) == sorted(digest for point in data for digest in point.digests)


async def test_late_interaction_takes_the_latents_of_all_parts(store: Store) -> None:
    await store.create("l", D, latents=True)
    points = store.points("l")
    random = np.random.default_rng(4)
    data = [replace(point, latents=rows(random, 2 * len(point.vectors))) for point in make_points(20)]
    await points.upsert(data)
    query, latents = rows(random, 1)[0], rows(random, 3)
    ranked = await points.rank(LateInteraction(query, latents, 20), SearchWindow(limit=20))
    expected = sorted((float((latents @ point.latents.T).max(axis=1).mean()) for point in data), reverse=True)  # type: ignore[union-attr]
    assert [place.score for place in ranked] == pytest.approx(expected, abs=1e-5)


async def test_late_interaction_reranks_the_documents_with_the_nearest_parts(store: Store) -> None:
    await store.create("l", D, latents=True)
    points = store.points("l")
    random = np.random.default_rng(6)
    data = [replace(point, latents=rows(random, 2)) for point in make_points(40)]
    await points.upsert(data)
    query, latents = rows(random, 1)[0], rows(random, 3)
    near = list(best_scores(data, query))[:7]
    scores = {p.document_id: float((latents @ p.latents.T).max(axis=1).mean()) for p in data}  # type: ignore[union-attr]
    hits = await points.search(LateInteraction(query, latents, 7), SearchWindow(limit=10))
    assert [hit.document_id for hit in hits] == sorted(near, key=lambda name: -scores[name])


async def test_a_point_has_bounded_vectors(points: Points) -> None:
    point = make_point(np.random.default_rng(0), "a", 2)
    many = np.ones((MAX_VALUES // D + 1, D), np.float32)
    with pytest.raises(InvalidInput, match=f"limit is {MAX_VALUES}"):
        await points.upsert([replace(point, part_vectors=many)])
    assert await points.count() == 0


# --- collections of before


async def test_an_older_collection_of_edge_works_as_it_did(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    (folder / "shard").mkdir(parents=True)
    (folder / "collection.json").write_text(
        json.dumps({"dimensions": D, "language": "simple", "latents": False, "format": FORMAT})
    )
    qe.EdgeShard.create(str(folder / "shard"), qe.EdgeConfig(**vector_params(Layout(D)))).close()
    store = EdgeStore(tmp_path)
    try:
        await assert_works_with_one_part(store)
    finally:
        await store.close()


async def test_an_older_collection_of_a_server_works_as_it_did() -> None:
    store = ServerStore(ServerStoreSettings(":memory:"))
    name, settings = store.engine_name("c"), store.settings.collection
    mark = {MARK: store.mark("c") | {"format": FORMAT, "indexes": {}}}
    await store.client.create_collection(name, **creation(Layout(D), settings), metadata=mark)
    try:
        await assert_works_with_one_part(store)
    finally:
        await store.close()


async def assert_works_with_one_part(store: Store) -> None:
    await store.create("c", D)
    points = store.points("c")
    data = make_points(50)[::5]
    await points.upsert(data)
    assert not (await points.layout()).parts
    query = rows(np.random.default_rng(8), 1)[0]
    expected = best_scores(data, query)
    assert [hit.document_id for hit in await points.search(Nearest(query), SearchWindow(limit=50))] == list(expected)
    assert len(await points.rank(Nearest(query), SearchWindow(limit=50))) == len(data)
    await assert_equal(points, data)
    with pytest.raises(InvalidInput, match="before documents had several: reindex it"):
        await points.upsert([make_point(np.random.default_rng(1), "several", 3)])
