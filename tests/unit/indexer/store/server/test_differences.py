"""Copies of a cluster that differ are found, wherever a page ends, and writes that are under way are none."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from indexer.store.server import differences as module
from indexer.store.server.addresses import Address, Addresses
from indexer.store.server.differences import Difference, differences


class Node:
    """A node with a hash for each of its points. `then` changes it after its pages are read."""

    def __init__(self, hashes: dict[int, str], then: Callable[[dict[int, str]], object] = lambda _: None) -> None:
        self.hashes, self.then = hashes, then

    async def info(self) -> Any:
        return SimpleNamespace(version="1.19.0")

    def record(self, number: int) -> Any:
        payload = {"document_id": f"d{number}", "content_hash": self.hashes[number]}
        return SimpleNamespace(id=f"{number:04}", payload=payload)

    async def scroll(self, _name: str, *, offset: str | None, limit: int, with_payload: Any) -> Any:
        numbers = sorted(number for number in self.hashes if offset is None or f"{number:04}" >= offset)
        following = f"{numbers[limit]:04}" if len(numbers) > limit else None
        return [self.record(number) for number in numbers[:limit]], following

    async def retrieve(self, _name: str, ids: list[str], *, with_payload: Any) -> Any:
        self.then(self.hashes)
        return [self.record(int(id_)) for id_ in ids if int(id_) in self.hashes]


async def compare(*nodes: Node) -> list[Difference]:
    clients: list[Any] = list(nodes)
    addresses = Addresses([Address(f"n{number}", client, client, client) for number, client in enumerate(clients)])
    return [difference async for difference in differences(addresses, "c")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.0)
    monkeypatch.setattr(module, "_PAGE", 10)


def whole() -> dict[int, str]:
    return {number: f"h{number}" for number in range(95)}


async def test_equal_copies_have_no_differences() -> None:
    assert await compare(Node(whole()), Node(whole()), Node(whole())) == []
    assert await compare(Node({}), Node({})) == []


@pytest.mark.parametrize("number", [0, 9, 10, 11, 50, 94])
async def test_a_document_that_is_missing_or_stale_on_a_node(number: int) -> None:
    missing, stale = whole(), whole()
    del missing[number]
    stale[number] = "old"
    expected = {"n0": f"h{number}", "n1": None, "n2": "old"}
    assert await compare(Node(whole()), Node(missing), Node(stale)) == [Difference(f"d{number}", expected)]


async def test_a_node_without_most_documents() -> None:
    few = {number: f"h{number}" for number in range(0, 95, 7)}
    unlike = await compare(Node(whole()), Node(few))
    assert [difference.document_id for difference in unlike] == [f"d{number}" for number in range(95) if number % 7]


async def test_a_write_that_reaches_the_other_copy_meanwhile_is_none() -> None:
    stale = whole() | {3: "old", 50: "old"}
    late = Node(stale, then=lambda hashes: hashes.update({3: "h3", 50: "h50"}))
    assert await compare(Node(whole()), late) == []
