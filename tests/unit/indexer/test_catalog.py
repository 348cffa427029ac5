"""Collections: the same again is fine, anything else is a conflict, and what a crash left half-made is whole after a repeat."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from indexer.domain.documents import Incoming
from indexer.domain.points import Point
from indexer.errors import PointsMissing
from indexer.filters import FieldType
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound

Make = Callable[..., Any]


@pytest.fixture
def world(make_world: Make) -> Any:
    return make_world()


async def test_creating_takes_the_model_from_the_encoder(world: Any) -> None:
    made, created = await world.catalog.create("flags", instruction="find:")
    assert created
    assert (made.name, made.fingerprint, made.model, made.dimensions, made.instruction) == (
        "flags",
        "fingerprint-1",
        "fake",
        8,
        "find:",
    )
    assert await world.catalog.create("flags", instruction="find:") == (made, False)
    assert await world.catalog.get("flags") == made
    assert await world.catalog.all() == [made]
    assert await world.store.points("flags").count() == 0
    assert await world.catalog.create("flags") == (made, False)  # what is not said is not asked about
    with pytest.raises(Conflict, match="instruction"):
        await world.catalog.create("flags", instruction="other")


@pytest.mark.parametrize("name", ["", "Upper", "-a", "_a", "a.b", "a/b", "a b", "ü", "a\n", "a" * 64])
async def test_names_that_are_none(world: Any, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        await world.catalog.create(name)
    assert await world.catalog.all() == []


@pytest.mark.parametrize("name", ["a", "0", "a-b_c", "a" * 63])
async def test_names_that_are_some(world: Any, name: str) -> None:
    assert (await world.catalog.create(name))[1]


async def test_another_model_is_refused(world: Any) -> None:
    """Promise 9."""
    made, _ = await world.catalog.create("flags")
    assert await world.catalog.compatible("flags") == made
    world.encoder.model = replace(world.encoder.model, fingerprint="fingerprint-2")
    for call in (world.catalog.compatible, world.catalog.create):
        with pytest.raises(Conflict, match="was filled by model fake"):
            await call("flags")


async def test_dropping(world: Any) -> None:
    await world.post(Incoming(0, id="a", text="a"), collection="flags")
    await world.catalog.drop("flags")
    assert "flags" not in world.store.kept
    assert world.ledger.jobs.newest.blocking() == []
    for call in (world.catalog.get, world.catalog.drop, world.catalog.compatible):
        with pytest.raises(NotFound, match="flags"):
            await call("flags")


async def test_many_creating_at_once_make_one(world: Any) -> None:
    made = await asyncio.gather(*(world.catalog.create("flags") for _ in range(8)))
    assert sum(created for _, created in made) == 1
    assert len({collection.created_at for collection, _ in made}) == 1


async def test_a_store_that_is_away_makes_no_collection(world: Any) -> None:
    world.store.broken = DependencyUnavailable("away")
    with pytest.raises(DependencyUnavailable):
        await world.catalog.create("flags")
    assert await world.catalog.all() == []


async def test_settings_are_kept_compared_and_changed(world: Any) -> None:
    made, _ = await world.catalog.create(
        "flags", limit=5, indexes={"region": FieldType.KEYWORD, "a.b": FieldType.NUMBER}
    )
    assert await world.catalog.get("flags") == made
    assert (await world.catalog.create("flags", limit=5, indexes={"region": FieldType.KEYWORD}))[0] == made
    changed = await world.catalog.change(
        "flags", {"limit": None, "indexes": {"area": FieldType.NUMBER}, "instruction": "find"}
    )
    assert changed == await world.catalog.get("flags")
    assert (changed.limit, changed.instruction) == (None, "find")
    assert changed.indexes == {"region": "keyword", "a.b": "number", "area": "number"}
    assert await world.catalog.change("flags", {}) == changed
    assert world.store.indexes["flags"] == changed.indexes
    assert changed.created_at == made.created_at


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"limit": 6}, "exists with limit 5, not 6; PATCH changes it"),
        ({"indexes": {"area": FieldType.NUMBER}}, "without a declared field area; PATCH adds it"),
        ({"indexes": {"region": FieldType.TEXT}}, "declared keyword, not text. A declared type stays"),
    ],
)
async def test_creating_with_other_settings_is_a_conflict_that_says_what_to_do(
    world: Any, settings: Any, says: str
) -> None:
    made, _ = await world.catalog.create("flags", limit=5, indexes={"region": FieldType.KEYWORD})
    with pytest.raises(Conflict, match=says):
        await world.catalog.create("flags", **settings)
    assert await world.catalog.get("flags") == made


async def test_a_declared_type_stays(world: Any) -> None:
    made, _ = await world.catalog.create("flags", indexes={"region": FieldType.KEYWORD})
    with pytest.raises(Conflict, match="fill a new collection") as refused:
        await world.catalog.change("flags", {"indexes": {"area": FieldType.NUMBER, "region": FieldType.NUMBER}})
    assert (refused.value.field, refused.value.limit) == ("indexes.region", "keyword")
    assert await world.catalog.get("flags") == made
    assert world.store.indexes["flags"] == {"region": "keyword"}


@pytest.mark.parametrize("indexes", [{"": FieldType.TEXT}, {"a..b": FieldType.TEXT}, {'a"': FieldType.TEXT}])
async def test_fields_that_no_store_can_look_up_are_not_declared(world: Any, indexes: Any) -> None:
    with pytest.raises(InvalidInput, match="indexes"):
        await world.catalog.create("flags", indexes=indexes)
    await world.catalog.create("flags", indexes={f"f{i}": FieldType.TEXT for i in range(60)})
    with pytest.raises(InvalidInput, match="65 declared fields, limit is 64"):
        await world.catalog.change("flags", {"indexes": {f"g{i}": FieldType.TEXT for i in range(5)}})


async def test_fields_declared_at_the_same_time_are_all_kept(world: Any) -> None:
    await world.catalog.create("flags")
    await asyncio.gather(*(world.catalog.change("flags", {"indexes": {f"f{i}": FieldType.BOOL}}) for i in range(8)))
    assert set((await world.catalog.get("flags")).indexes) == {f"f{i}" for i in range(8)}


async def test_an_alias_is_read_as_its_collection_and_changes_nothing_of_it(world: Any) -> None:
    for name in ("a", "b"):
        await world.catalog.create(name)
    assert await world.catalog.set_alias("live", "a")
    assert (await world.catalog.get("live")).name == (await world.catalog.compatible("live")).name == "a"
    assert not await world.catalog.set_alias("live", "b")
    assert (await world.catalog.get("live")).name == "b"
    for call in (world.catalog.create, world.catalog.drop, lambda name: world.catalog.change(name, {})):
        with pytest.raises(Conflict, match="'live' is an alias"):
            await call("live")
    with pytest.raises(InvalidInput, match="alias name"):
        await world.catalog.set_alias("Live", "a")


async def test_half_made_by_another_model_is_made_anew(world: Any) -> None:
    await world.store.create("flags", 99)
    made, created = await world.catalog.create("flags")
    assert created
    assert made.dimensions == 8
    assert await world.store.points("flags").count() == 0


@pytest.mark.parametrize("dimensions", [8, 99])
async def test_documents_that_the_ledger_does_not_know_are_left_as_they_are(world: Any, dimensions: int) -> None:
    """Of another layout or of ours: nothing of the store is dropped or adopted."""
    await world.store.create("flags", dimensions)
    point = Point("a", np.ones(dimensions, np.float32), "text", None, {}, "hash")
    await world.store.points("flags").upsert([point])
    with pytest.raises(Conflict, match="'flags' with 1 documents that this service's ledger does not know") as refused:
        await world.catalog.create("flags")
    assert (refused.value.field, refused.value.value) == ("name", "flags")
    assert await world.store.points("flags").count() == 1
    assert (await world.store.points("flags").layout()).dimensions == dimensions
    assert await world.catalog.all() == []


async def test_half_dropped_can_be_dropped_or_made_whole(world: Any) -> None:
    for repeat in (world.catalog.drop, world.catalog.create):
        await world.catalog.create("flags")
        del world.store.kept["flags"]  # as if the process had died between store and ledger
        await repeat("flags")
    assert await world.store.points("flags").count() == 0


async def test_points_that_are_lost_are_not_made_anew(world: Any) -> None:
    """A collection that had documents would answer as if it had none. Deleting it is the way."""
    made, _ = await world.catalog.create("flags")
    await world.ledger.collections.change("flags", lambda present: present.filled_by(made.fingerprint, "float32"))
    await world.store.drop("flags")
    for call in (lambda: world.catalog.create("flags"), lambda: world.catalog.change("flags", {"limit": 3})):
        with pytest.raises(PointsMissing, match="the store has no points of collection flags"):
            await call()
    await world.catalog.drop("flags")
    assert (await world.catalog.create("flags"))[1]


async def test_a_language_stays(world: Any) -> None:
    await world.catalog.create("flags", language="english")
    assert (await world.catalog.change("flags", {"language": "english", "limit": 3})).limit == 3
    with pytest.raises(Conflict, match="A language stays") as refused:
        await world.catalog.change("flags", {"language": "german"})
    assert (refused.value.field, refused.value.limit) == ("language", "english")
