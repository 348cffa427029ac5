"""One real Qdrant node that refuses: by its keys, by strict mode, and because somebody changed a collection there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from declared_indexes import unfinished_indexes
from fault_proxy import Fault, proxy_of
from qdrant_nodes import Node, one_node

from indexer.domain.points import Point
from indexer.errors import CollectionDamaged
from indexer.filters import Equals, FieldType, Range
from indexer.store.base import KeptOnServer, SearchWindow, ServerOptions, Summary
from indexer.store.criteria import Nearest
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound

pytestmark = [pytest.mark.qdrant_server, pytest.mark.timeout(120)]

D = 16
KEY, READ_ONLY_KEY = "a-key-that-may-write", "a-key-that-may-read"
ONES = Nearest(np.ones(D, np.float32))
Open = Callable[..., ServerStore]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    keys = {"QDRANT__SERVICE__API_KEY": KEY, "QDRANT__SERVICE__READ_ONLY_API_KEY": READ_ONLY_KEY}
    with one_node(tmp_path_factory.mktemp("node"), **keys) as started:
        yield started


@pytest.fixture(params=["gRPC", "REST"])
async def open_store(node: Node, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    stores: list[ServerStore] = []

    def open_(**settings: Any) -> ServerStore:
        by = {"prefer_grpc": request.param == "gRPC", "grpc_port": node.grpc_port, "timeout_s": 5}
        keys = {} if "api_key_file" in settings else {"api_key": KEY}
        stores.append(ServerStore(ServerStoreSettings(**{"url": node.url} | by | keys | settings)))
        return stores[-1]

    yield open_
    async with httpx.AsyncClient(headers={"api-key": KEY}, trust_env=False) as client:
        for name in ("c", "new"):
            await client.delete(f"{node.url}/collections/ret2~~{name}")
    for store in stores:
        await store.close()


def point(number: int) -> Point:
    vector = np.random.default_rng(number).standard_normal(D).astype(np.float32)
    return Point(f"d{number}", vector, f"text of {number}", None, {"n": number}, "")


async def fill(store: ServerStore, count: int = 50) -> None:
    await store.create("c", D)
    await store.points("c").upsert([point(number) for number in range(count)])


def change(node: Node, method: str, **body: Any) -> Any:
    """Call the server as its own clients do."""
    with httpx.Client(headers={"api-key": KEY}, trust_env=False, timeout=30) as client:
        answer = client.request(method, f"{node.url}/collections/ret2~~c", json=body or None)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


async def test_a_read_only_key_suffices_for_searches(open_store: Open) -> None:
    await fill(open_store())
    store = open_store(api_key=READ_ONLY_KEY)
    points = store.points("c")
    await store.ping()
    assert len(await points.search(ONES, SearchWindow(5))) == 5
    assert len(await points.search(ONES, SearchWindow(5, condition=Equals("n", 3)))) == 1
    assert await points.count() == 50
    refused = "Give RET2_QDRANT_API_KEY or RET2_QDRANT_API_KEY_FILE a key with the rights for this"
    for call in (
        lambda: points.upsert([point(1)]),
        lambda: points.delete(["d1"]),
        lambda: store.create("new", D),
        lambda: store.drop("c"),
    ):
        with pytest.raises(DependencyUnavailable, match=refused):
            await call()


@pytest.mark.parametrize("fault", ["hung", Fault.SILENT, Fault.REFUSED, Fault.CUT])
async def test_searches_are_well_when_the_server_is(open_store: Open, node: Node, fault: str) -> None:
    """None waits longer than its own time-out and the question for the version."""
    await fill(open_store())
    target = node.grpc_port if open_store().settings.prefer_grpc else urlsplit(node.url).port
    assert target is not None
    with proxy_of(target) as proxy:
        store = open_store(url=proxy.url, grpc_port=proxy.port, timeout_s=1)
        longest_s, failed, ends = 0.0, 0, False

        async def search_on() -> None:
            nonlocal longest_s, failed
            while not ends:
                began = time.monotonic()
                try:
                    await store.points("c").search(ONES, SearchWindow(5))
                except DependencyUnavailable:
                    failed += 1
                longest_s = max(longest_s, time.monotonic() - began)
                await asyncio.sleep(0.02)

        callers = [asyncio.create_task(search_on()) for _ in range(4)]
        await asyncio.sleep(0.3)
        node.hang() if fault == "hung" else proxy.set(Fault(fault))
        await asyncio.sleep(2.5)
        node.go_on() if fault == "hung" else proxy.set(Fault.NONE)
        async with asyncio.timeout(15):
            while True:
                with contextlib.suppress(DependencyUnavailable):
                    assert len(await store.points("c").search(ONES, SearchWindow(5))) == 5
                    break
                await asyncio.sleep(0.1)
        ends = True
        await asyncio.gather(*callers)
    assert failed
    # The version may take two seconds.
    assert longest_s < 1 + 2 + 1


async def test_a_key_file_is_read_again(open_store: Open, tmp_path: Path) -> None:
    (file := tmp_path / "key").write_text("another")
    store = open_store(api_key_file=file)
    with pytest.raises(DependencyUnavailable, match="Give RET2_QDRANT_API_KEY"):
        await store.ping()
    file.write_text(f"{KEY}\n")
    await store.ping()
    file.unlink()
    with pytest.raises(DependencyUnavailable, match="cannot be read from"):
        await store.ping()


async def test_strict_mode(open_store: Open, node: Node) -> None:
    store = open_store()
    await fill(store)
    limits = {"unindexed_filtering_retrieve": False, "upsert_max_batchsize": 7, "search_max_hnsw_ef": 64}
    change(node, "PATCH", strict_mode_config={"enabled": True, "max_timeout": 1, **limits})
    await store.describe("c", fresh=True)
    points = store.points("c")
    await points.upsert([point(number) for number in range(60)])
    assert len(await points.search(ONES, SearchWindow(5))) == 5
    narrowed = SearchWindow(5, condition=Equals("n", 3))
    with pytest.raises(InvalidInput, match="Declare it with"):
        await points.search(ONES, narrowed)
    await store.create("c", D, {"n": FieldType.NUMBER})
    while await unfinished_indexes(store, "c", {"n": FieldType.NUMBER}):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert len(await points.search(ONES, narrowed)) == 1


async def test_limits_that_were_lowered_since_they_were_read(open_store: Open, node: Node) -> None:
    store = open_store()
    await fill(store)
    points = store.points("c")
    await points.search(ONES, SearchWindow(5))
    change(node, "PATCH", strict_mode_config={"enabled": True, "max_timeout": 1, "search_max_hnsw_ef": 64})
    assert len(await points.search(ONES, SearchWindow(5))) == 5
    with pytest.raises(InvalidInput):
        await points.search(ONES, SearchWindow(5, ef=65))


async def test_what_was_acknowledged_is_there_when_a_killed_server_is_ready_again(open_store: Open, node: Node) -> None:
    """At its first readiness, for every way of reading."""
    store = open_store()
    await store.create("c", D, {"n": FieldType.NUMBER})
    acknowledged = 0

    async def load() -> None:
        nonlocal acknowledged
        for first in range(0, 100_000, 100):
            await store.points("c").upsert([point(number) for number in range(first, first + 100)])
            acknowledged = first + 100

    loading = asyncio.create_task(load())
    async with asyncio.timeout(60):
        while acknowledged < 1_000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    node.kill()
    with pytest.raises(DependencyUnavailable):
        await loading
    node.start()
    await asyncio.to_thread(node.wait_until_ready)
    points, limited = open_store().points("c"), Range("n", gte=0, lt=acknowledged)
    assert await points.count() >= acknowledged
    assert await points.count(limited) == acknowledged
    hits = await points.search(ONES, SearchWindow(acknowledged, condition=limited))
    assert {hit.document_id for hit in hits} == {f"d{number}" for number in range(acknowledged)}
    walked, after = set[str](), None
    while (page := await points.page(after, 1_000, limited)).document_ids:
        walked |= set(page.document_ids)
        if (after := page.after) is None:
            break
    assert len(walked) == acknowledged


async def test_a_new_generation_is_kept_like_the_serving_one(open_store: Open, node: Node) -> None:
    """With what the server's own API has changed since, which is shown."""
    store = open_store()
    await fill(store)
    change(
        node,
        "PATCH",
        vectors={"": {"on_disk": True}},
        quantization_config={"scalar": {"type": "int8", "quantile": 0.95}},
        hnsw_config={"m": 24, "ef_construct": 77},
        strict_mode_config={"enabled": True, "max_query_limit": 5_000},
    )
    await store.create("new", D, like="c")
    shown = await store.summaries(["c", "new"])
    kept = [replace(summary.kept, status="") for summary in shown.values() if isinstance(summary, Summary)]
    expected = KeptOnServer("", 1, 1, 1, "scalar", True, True, 24, 77, 512, strict_mode=True)
    assert kept == [expected, expected]
    old, new = [(await store.client.get_collection(store.engine_name(name))).config for name in ("c", "new")]
    assert new.quantization_config == old.quantization_config
    assert new.strict_mode_config == old.strict_mode_config


@pytest.mark.parametrize("latents", [False, True])
async def test_a_collection_has_options_of_its_own_and_others_later(open_store: Open, latents: bool) -> None:
    """The documents stay, a reindex keeps the options, and other settings of the server are left alone."""
    store = open_store()
    first = ServerOptions(shards=2, quantization="binary", vectors_on_disk=True, hnsw_m=24, hnsw_ef=64)
    await store.create("c", D, latents=latents, options=first)
    points = store.points("c")
    rows = np.ones((2, D), np.float32) if latents else None
    await points.upsert([replace(point(number), latents=rows) for number in range(50)])
    assert (await kept_as(store, "c")).chosen() | first.chosen() == (await kept_as(store, "c")).chosen()
    later = ServerOptions(
        quantization="scalar", vectors_on_disk=False, payload_on_disk=False, hnsw_m=8, hnsw_ef_construct=32, hnsw_ef=99
    )
    await store.create("c", D, options=later)
    await store.create("c", D, {"n": FieldType.NUMBER})
    await store.create("new", D, latents=latents, like="c")
    expected = replace(later, shards=2, replication_factor=1, write_consistency_factor=1)
    assert [await kept_as(store, name) for name in ("c", "new")] == [expected, expected]
    assert len(await points.search(ONES, SearchWindow(50))) == 50
    await store.create("c", D, options=ServerOptions(quantization="none"))
    assert await kept_as(store, "c") == replace(expected, quantization="none")
    for refused, named in (
        (ServerOptions(shards=3), "server.shards is 3, and the collection was made with 2, which stays"),
        (ServerOptions(replication_factor=2), "server.replication_factor is 2, and the collection was made with 1"),
        (ServerOptions(write_consistency_factor=2), "limit is the collection's replication_factor, 1"),
    ):
        with pytest.raises(InvalidInput, match=named):
            await store.create("c", D, options=refused)


async def kept_as(store: ServerStore, name: str) -> ServerOptions:
    summary = (await store.summaries([name]))[name]
    assert isinstance(summary, Summary)
    assert summary.kept is not None
    return ServerOptions(**{option.name: getattr(summary.kept, option.name) for option in fields(ServerOptions)})


WORDS = {"sparse_vectors": {"words_simple": {"modifier": "idf"}}}
LAYOUTS = {
    "another size": {"vectors": {"size": 8, "distance": "Cosine"}, **WORDS},
    "another distance": {"vectors": {"size": D, "distance": "Dot"}, **WORDS},
    "no words": {"vectors": {"size": D, "distance": "Cosine"}},
    "a named vector": {"vectors": {"x": {"size": D, "distance": "Cosine"}}, **WORDS},
}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_collection_made_anew_on_the_server(open_store: Open, node: Node, layout: str) -> None:
    """With our mark it is damaged, and without it another's; its documents are at fault neither time."""
    store = open_store()
    await fill(store)
    mark = change(node, "GET")["config"]["metadata"]
    change(node, "DELETE")
    change(node, "PUT", **LAYOUTS[layout], metadata=mark)
    if layout == "another distance":
        # The server takes the same vectors, so it shows when the collection is described again.
        await asyncio.gather(store.describe("c", fresh=True), return_exceptions=True)
    points = store.points("c")
    for _ in range(2):
        with pytest.raises(CollectionDamaged, match=r"was changed on the Qdrant server: it has 0 points of"):
            await points.upsert([point(1)])
    with pytest.raises(CollectionDamaged):
        await points.search(ONES, SearchWindow(5))
    change(node, "DELETE")
    change(node, "PUT", **LAYOUTS[layout])
    for call in (lambda: points.upsert([point(1)]), lambda: store.create("c", D)):
        with pytest.raises(Conflict, match="that this deployment did not make"):
            await call()
    change(node, "DELETE")
    with pytest.raises(NotFound):
        await points.upsert([point(1)])
