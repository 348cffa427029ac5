"""A stall of an encoder, an image host or Qdrant is over when the stall is over, whoever left meanwhile."""

import asyncio
import time

import httpx
import pytest
from stalled_server import leave_together, stalled_server

from indexer.connections import BoundedTransport
from indexer.encoding.encoder import Lane
from indexer.encoding.http_encoder import EncoderClientSettings, HttpEncoder
from indexer.fetcher import Fetcher, FetchSettings
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import DependencyUnavailable, InvalidInput
from model.types import Input, Role

# Far under the twenty seconds after which the calls that were left would end by themselves.
WELL_AGAIN_S = 10.0


@pytest.mark.parametrize("turns", [1, 3])
async def test_a_stalled_encoder_whose_callers_left(turns: int) -> None:
    async with stalled_server(b"{}") as server:
        encoder = HttpEncoder(EncoderClientSettings(server.url, timeout_s=20, connections=16))
        for _ in range(turns):
            server.answers.clear()
            calls = [
                asyncio.ensure_future(encoder.encode([Input("x")], role=Role.QUERY, lane=Lane.SEARCH))
                for _ in range(64)
            ]
            await leave_together(calls, 0.3)  # type: ignore[arg-type]
            server.answers.set()
            began = time.monotonic()
            await asyncio.gather(*(encoder.check(10) for _ in range(20)))
            assert time.monotonic() - began < WELL_AGAIN_S
            assert encoder.alive
        await encoder.stop()


async def test_a_stalled_encoder_whose_calls_ran_out_of_time_together() -> None:
    async with stalled_server(b"{}") as server:
        encoder = HttpEncoder(EncoderClientSettings(server.url, timeout_s=0.5, connections=16))
        results = await asyncio.gather(*(encoder.check(10) for _ in range(64)), return_exceptions=True)
        assert all(isinstance(result, DependencyUnavailable) for result in results)
        server.answers.set()
        await asyncio.gather(*(encoder.check(10) for _ in range(20)))
        await encoder.stop()


async def test_an_encoder_client_is_not_alive_when_no_connection_becomes_free() -> None:
    async with stalled_server(b"{}") as server:
        encoder = HttpEncoder(EncoderClientSettings(server.url, timeout_s=0.2, connections=2))
        connections = encoder._transport.connections
        clients = [await connections.acquire() for _ in range(2)]
        assert encoder.alive
        with pytest.raises(DependencyUnavailable):
            await encoder.check(10)
        await asyncio.sleep(0.4)
        assert not encoder.alive
        connections.release(clients[0], reusable=True)
        assert encoder.alive
        await encoder.stop()


@pytest.mark.parametrize("leave", [True, False])
async def test_stalled_image_hosts(leave: bool) -> None:
    async with stalled_server(b"bytes of an image", "image/png") as server, stalled_server(b"good") as good:
        good.answers.set()
        settings = FetchSettings(timeout_s=20 if leave else 0.5, allow_private=True)
        async with Fetcher(settings) as fetcher:
            calls = [asyncio.ensure_future(fetcher.fetch(f"{server.url}/{place}")) for place in range(100)]
            if leave:
                await leave_together(calls, 0.3)  # type: ignore[arg-type]
            else:
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(result, DependencyUnavailable) for result in results)
            began = time.monotonic()
            assert await fetcher.fetch(good.url) == b"good"
            server.answers.set()
            fetched = await asyncio.gather(*(fetcher.fetch(server.url) for _ in range(40)))
            assert fetched == [b"bytes of an image"] * 40
            assert time.monotonic() - began < WELL_AGAIN_S
            assert fetcher.alive


async def test_a_stalled_qdrant_over_rest() -> None:
    answer = b'{"result": {"collections": []}, "status": "ok", "time": 0.0, "title": "qdrant", "version": "1.19.0"}'
    async with stalled_server(answer) as server:
        store = ServerStore(ServerStoreSettings(server.url, prefer_grpc=False, timeout_s=20, connections=16))
        calls = [asyncio.ensure_future(store.ping()) for _ in range(64)]
        await leave_together(calls, 0.3)  # type: ignore[arg-type]
        server.answers.set()
        began = time.monotonic()
        await asyncio.gather(*(store.ping() for _ in range(20)))
        assert time.monotonic() - began < WELL_AGAIN_S
        await store.close()


async def test_a_full_pool_of_qdrant_is_seen_by_the_probes() -> None:
    async with stalled_server(b"{}") as server:
        store = ServerStore(ServerStoreSettings(server.url, prefer_grpc=False, timeout_s=1, connections=2))
        calls = [asyncio.ensure_future(store.ping()) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert store.alive
        store._bounded._timeout_s = store._bounded._longest_s = 0.1
        with pytest.raises(DependencyUnavailable, match=r"all 2 calls to it are in use"):
            await store.ping()
        await asyncio.sleep(0.4)
        assert not store.alive
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert store.alive
        await store.close()


async def test_waiting_for_a_place_runs_out_of_time() -> None:
    async with stalled_server(b"{}") as server:
        timeout = httpx.Timeout(20, pool=0.2)
        async with httpx.AsyncClient(transport=BoundedTransport(1), timeout=timeout) as client:
            first = asyncio.ensure_future(client.get(server.url))
            await asyncio.sleep(0.05)
            with pytest.raises(httpx.PoolTimeout, match="all connections are in use"):
                await client.get(server.url)
            server.answers.set()
            assert (await first).status_code == 200


async def test_a_connection_is_reused_and_one_that_was_not_read_to_its_end_is_not() -> None:
    async with stalled_server(b"0123456789" * 100_000) as server:
        server.answers.set()
        transport = BoundedTransport(4)
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(server.url)
            await client.get(server.url)
            (kept,) = transport.connections._idle
            async with client.stream("GET", server.url):
                pass
            assert transport.connections._idle == []
            assert (await client.get(server.url)).status_code == 200
            assert kept not in transport.connections._idle


async def test_a_body_over_the_limit_gives_its_place_back() -> None:
    async with stalled_server(b"x" * 1000) as server:
        server.answers.set()
        async with Fetcher(FetchSettings(max_bytes=10, allow_private=True)) as fetcher:
            for _ in range(40):
                with pytest.raises(InvalidInput):
                    await fetcher.fetch(server.url)
