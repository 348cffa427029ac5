"""Collections: the same again is fine, anything else is a conflict, and what a crash left half-made is whole after a repeat."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from indexer.intake import Incoming
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
    assert await world.catalog.count("flags") == 0
    with pytest.raises(Conflict, match="instruction"):
        await world.catalog.create("flags")


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
    assert world.ledger.jobs() == []
    for call in (world.catalog.get, world.catalog.drop, world.catalog.compatible, world.catalog.count):
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


async def test_half_made_by_another_model_is_made_anew(world: Any) -> None:
    await world.store.create("flags", 99)
    made, created = await world.catalog.create("flags")
    assert created
    assert made.dimensions == 8
    assert await world.catalog.count("flags") == 0


async def test_half_dropped_can_be_dropped_or_made_whole(world: Any) -> None:
    for repeat in (world.catalog.drop, world.catalog.create):
        await world.catalog.create("flags")
        del world.store.kept["flags"]  # as if the process had died between store and ledger
        await repeat("flags")
    assert await world.catalog.count("flags") == 0
