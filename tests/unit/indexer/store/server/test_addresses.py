"""Which address of a Qdrant cluster a call goes to, and what becomes of one whose connection is lost."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from indexer.store.server import addresses as servers
from indexer.store.server.addresses import REST_S, Address, Addresses
from model.errors import DependencyUnavailable

METADATA = grpc.aio.Metadata()
CLOSED = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, METADATA, METADATA, "Socket closed")
RESET = ResponseHandlingException(httpx.ReadError("reset"))
LATE = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, METADATA, METADATA, "late")
REFUSED = grpc.aio.AioRpcError(grpc.StatusCode.INVALID_ARGUMENT, METADATA, METADATA, "no")


class Node:
    """A server that answers with its name, or raises what stands first in `faults`."""

    def __init__(self, name: str, version: str = "1.19.0") -> None:
        self.name, self.version = name, version
        self.faults: list[Exception] = []
        self.asked: list[str] = []
        self.ends = asyncio.Event()
        self.ends.set()

    async def info(self) -> Any:
        self.asked.append("info")
        return SimpleNamespace(version=self.version)

    async def count(self) -> str:
        return await self._answer("count")

    async def write_points(self) -> str:
        return await self._answer("write_points")

    async def _answer(self, method: str) -> str:
        self.asked.append(method)
        await self.ends.wait()
        if self.faults:
            raise self.faults.pop(0)
        return self.name

    @property
    def address(self) -> Address:
        client: Any = self
        return Address(f"http://{self.name}:6333", client, client, client)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def addresses(*nodes: Node, clock: Clock | None = None) -> Addresses:
    return Addresses([node.address for node in nodes], clock or Clock())


@pytest.mark.parametrize("fault", [CLOSED, RESET])
async def test_a_read_whose_connection_was_closed_is_asked_once_more(fault: Exception) -> None:
    node = Node("a")
    cluster = addresses(node)
    node.faults = [fault]
    assert await cluster.count() == "a"
    # The server may be another one now.
    assert node.asked == ["info", "count", "info", "count"]
    node.faults = [fault, fault]
    with pytest.raises(type(fault)):
        await cluster.count()


@pytest.mark.parametrize("fault", [LATE, REFUSED])
async def test_a_read_that_was_late_or_refused_is_asked_once(fault: Exception) -> None:
    node = Node("a")
    node.faults = [fault]
    with pytest.raises(grpc.aio.AioRpcError):
        await addresses(node).count()
    assert node.asked.count("count") == 1


FAILED = [
    grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, METADATA, METADATA, "Local shard 2 not found"),
    UnexpectedResponse(500, "Internal Server Error", b"Local shard 2 not found", httpx.Headers()),
]


@pytest.mark.parametrize("fault", FAILED)
async def test_a_read_that_failed_inside_a_server_is_asked_of_another(fault: Exception) -> None:
    first, second = Node("a"), Node("b")
    first.faults = [fault]
    assert await addresses(first, second).count() == "b"
    first.faults = [fault]
    with pytest.raises(type(fault)):
        await addresses(first, second).write_points()
    assert "write_points" not in second.asked
    alone = Node("c")
    alone.faults = [fault]
    with pytest.raises(type(fault)):
        await addresses(alone).count()
    assert alone.asked.count("count") == 1


async def test_a_write_whose_connection_was_closed_is_not_repeated() -> None:
    first, second = Node("a"), Node("b")
    cluster = addresses(first, second)
    first.faults = [CLOSED]
    with pytest.raises(grpc.aio.AioRpcError):
        await cluster.write_points()
    assert second.asked == []
    assert await cluster.write_points() == "b"


async def test_a_call_goes_to_the_least_busy_address() -> None:
    first, second = Node("a"), Node("b")
    cluster = addresses(first, second)
    first.ends.clear()
    slow = [asyncio.ensure_future(cluster.count()) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert [await cluster.count() for _ in range(3)] == ["b"] * 3
    first.ends.set()
    assert sorted(await asyncio.gather(*slow)) == ["a", "b"]


async def test_an_address_that_was_lost_rests_while_another_does_not() -> None:
    first, second, clock = Node("a"), Node("b"), Clock()
    cluster = addresses(first, second, clock=clock)
    first.faults = [CLOSED]
    assert await cluster.count() == "b"
    assert [await cluster.count() for _ in range(3)] == ["b"] * 3
    clock.now += REST_S
    assert await cluster.count() == "a"
    first.faults, second.faults = [CLOSED], [CLOSED]
    with pytest.raises(grpc.aio.AioRpcError):
        await cluster.count()
    # Both rest; one is tried all the same.
    assert await cluster.count() in ("a", "b")


@pytest.mark.parametrize("servers_that_hang", [1, 2])
async def test_no_search_waits_twice_for_one_server(monkeypatch: pytest.MonkeyPatch, servers_that_hang: int) -> None:
    monkeypatch.setattr(servers, "CHECK_S", 0.02)
    waited: list[str] = []

    async def info() -> None:
        waited.append("info")
        await asyncio.sleep(60)

    nodes = [Node(name) for name in "ab"[:servers_that_hang]]
    for node in nodes:
        node.info = info  # type: ignore[method-assign]
    with pytest.raises(DependencyUnavailable, match="does not answer within"):
        await addresses(*nodes).count()
    assert len(waited) == servers_that_hang


@pytest.mark.parametrize("version", ["1.18.3", "0.9.0"])
async def test_an_old_server_is_refused_by_name(version: str) -> None:
    node = Node("a", version)
    with pytest.raises(
        DependencyUnavailable, match=rf"http://a:6333 has version {version}, the least is 1.19: upgrade"
    ):
        await addresses(node).count()
    assert "count" not in node.asked


async def test_the_version_is_asked_once_for_all_callers_and_shown() -> None:
    node = Node("a", "1.20.1-dev")
    cluster = addresses(node)
    assert cluster.versions == {"http://a:6333": None}
    await asyncio.gather(*(cluster.count() for _ in range(20)))
    assert node.asked.count("info") == 1
    assert cluster.versions == {"http://a:6333": "1.20.1-dev"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE,
                METADATA,
                METADATA,
                "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:6334: Connection refused",
            ),
            r"http://a:6333 cannot be reached \(Connection refused\): look at RET2_QDRANT_URL and RET2_QDRANT_GRPC_PORT",
        ),
        (
            ResponseHandlingException(httpx.ConnectError("Name or service not known")),
            r"http://a:6333 cannot be reached \(Name or service not known\): look at RET2_QDRANT_URL, and whether",
        ),
    ],
    ids=["gRPC", "REST"],
)
async def test_a_server_that_cannot_be_reached_is_named(error: Exception, said: str) -> None:
    node = Node("a")

    async def info() -> None:
        raise error

    node.info = info  # type: ignore[method-assign]
    with pytest.raises(DependencyUnavailable, match=said):
        await Addresses([node.address]).count()


async def test_another_service_is_no_qdrant() -> None:
    with pytest.raises(DependencyUnavailable, match="http://a:6333 is no Qdrant server: it says version 'nginx'"):
        await addresses(Node("a", "nginx")).count()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (json.JSONDecodeError("Expecting value", "<html>", 0), "Expecting value: line 1 column 1 (char 0)"),
        (UnexpectedResponse(404, "Not Found", b"<html>", httpx.Headers()), "status 404"),
        (grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, METADATA, METADATA, "no such call"), "no such call"),
    ],
)
async def test_a_server_that_answers_otherwise_is_no_qdrant(error: Exception, said: str) -> None:
    node = Node("a")

    async def info() -> None:
        raise error

    node.info = info  # type: ignore[method-assign]
    with pytest.raises(DependencyUnavailable) as raised:
        await Addresses([node.address]).count()
    assert raised.value.detail == (
        f"http://a:6333 is no Qdrant server, its answer cannot be read ({said}): look at RET2_QDRANT_URL"
    )


async def test_a_server_that_hangs_is_asked_its_version_before_it_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search that comes to it then goes to another within two seconds, and a write too."""
    monkeypatch.setattr(servers, "CHECK_S", 0.02)
    hung, other = Node("a"), Node("b")
    clock = Clock()
    addresses = Addresses([hung.address, other.address], clock)
    hung.faults = [LATE]
    with pytest.raises(grpc.aio.AioRpcError):
        await addresses.count()

    async def silent() -> None:
        await asyncio.Event().wait()

    hung.info = silent  # type: ignore[method-assign]
    clock.now += REST_S + 1
    assert [await addresses.count(), await addresses.write_points()] == ["b", "b"]
    assert hung.asked == ["info", "count"]
