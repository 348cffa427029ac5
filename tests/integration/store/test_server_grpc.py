"""The server store over gRPC against a small server in this process: what is sent, and what each refusal becomes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from forgetful_proxy import forgetful_proxy
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import json_to_value
from qdrant_client.grpc.collections_service_pb2_grpc import CollectionsServicer, add_CollectionsServicer_to_server
from qdrant_client.grpc.points_service_pb2_grpc import PointsServicer, add_PointsServicer_to_server
from qdrant_client.grpc.qdrant_pb2_grpc import QdrantServicer, add_QdrantServicer_to_server

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.errors import PointsMissing, WriteUnanswered
from indexer.filters import Equals
from indexer.store.base import SearchWindow
from indexer.store.criteria import Hybrid, Nearest, ReciprocalRanks, WordMatch
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import DependencyUnavailable, InvalidInput, Overloaded, RetrievalError

D = 4

# Documents without a filter are not counted by a call for points.
RED = Equals("x", "red")


class Qdrant(CollectionsServicer, PointsServicer, QdrantServicer):  # type: ignore[misc]
    """Has one collection, `c`. `refusal` is (code, trailing metadata) of every call on points; `hangs` answers none."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.asked: list[Any] = []
        self.refusal: tuple[grpc.StatusCode, tuple[tuple[str, str], ...]] | None = None
        self.hangs = False
        self.status = wire.UpdateStatus.Completed
        self.version = "1.19.0"
        self.hits: list[Any] = []

    async def answer(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        self.asked.append(request)
        self.keys |= {value for key, value in context.invocation_metadata() if key == "api-key"}
        if self.hangs:
            await asyncio.sleep(60)
        if self.refusal is not None:
            code, metadata = self.refusal
            await context.abort(code, "what Qdrant said", metadata)

    async def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        return wire.HealthCheckReply(title="qdrant - vector search engine", version=self.version)

    async def CollectionExists(self, request: Any, context: Any) -> Any:  # noqa: N802
        exists = wire.CollectionExists(exists=request.collection_name == "ret2~~c")
        return wire.CollectionExistsResponse(result=exists)

    async def Get(self, request: Any, context: Any) -> Any:  # noqa: N802 both services have a method of this name
        if isinstance(request, wire.GetPoints):
            await self.answer(request, context)
            return wire.GetResponse()
        vectors = wire.VectorsConfig(params=wire.VectorParams(size=D, distance=wire.Distance.Cosine))
        words = wire.SparseVectorConfig(map={"words_simple": wire.SparseVectorParams(modifier=wire.Modifier.Idf)})
        params = {"vectors_config": vectors, "sparse_vectors_config": words, "shard_number": 1, "on_disk_payload": True}
        config = wire.CollectionConfig(
            params=wire.CollectionParams(**params),
            hnsw_config=wire.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=wire.OptimizersConfigDiff(
                deleted_threshold=0.2, vacuum_min_vector_number=1_000, default_segment_number=0, flush_interval_sec=5
            ),
            wal_config=wire.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
            metadata={"ret2": json_to_value({"prefix": "", "collection": "c", "format": 2, "indexes": {}})},
        )
        info = wire.CollectionInfo(status=wire.CollectionStatus.Green, config=config, segments_count=1, points_count=7)
        return wire.GetCollectionInfoResponse(result=info)

    async def CreateFieldIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.written(request, context)

    async def Upsert(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.written(request, context)

    async def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.written(request, context)

    async def written(self, request: Any, context: Any) -> Any:
        await self.answer(request, context)
        done = wire.UpdateResult(operation_id=0, status=self.status)
        return wire.PointsOperationResponse(result=done)

    async def Query(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.answer(request, context)
        return wire.QueryResponse(result=self.hits)

    async def Count(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.answer(request, context)
        return wire.CountResponse(result=wire.CountResult(count=7))


@pytest.fixture
def qdrant() -> Qdrant:
    return Qdrant()


@pytest.fixture
async def store(qdrant: Qdrant) -> AsyncIterator[ServerStore]:
    server = grpc.aio.server()
    add_CollectionsServicer_to_server(qdrant, server)
    add_PointsServicer_to_server(qdrant, server)
    add_QdrantServicer_to_server(qdrant, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    opened = ServerStore(ServerStoreSettings("http://127.0.0.1:1", api_key="secret", grpc_port=port, timeout_s=2))
    yield opened
    await opened.close()
    await server.stop(None)


async def test_what_is_sent(qdrant: Qdrant, store: ServerStore) -> None:
    points = store.points("c")
    await points.upsert([Point(f"d{i}", np.ones(D, np.float32), "text", None, {"i": 1.5}, "") for i in range(130)])
    await points.delete(["d0"])
    first, second, deleted = qdrant.asked
    assert [len(first.points), len(second.points)] == [128, 2]
    assert first.wait and second.wait and deleted.wait  # noqa: PT018 one promise
    assert first.points[3].id.uuid == point_id("d3")
    assert first.points[3].payload["metadata"].struct_value.fields["i"].double_value == 1.5
    assert deleted.points.points.ids[0].uuid == point_id("d0")
    assert qdrant.keys == {"secret"}
    assert await points.count() == 7
    await points.search(Nearest(np.ones(D, np.float32)), SearchWindow(limit=3, condition=Equals("x", 2.5)))
    query = qdrant.asked[-1]
    assert query.filter.must[0].field.range.gte == 2.5
    assert query.limit == 4


async def test_a_write_that_was_not_carried_out_in_time_is_none(qdrant: Qdrant, store: ServerStore) -> None:
    qdrant.status = wire.UpdateStatus.WaitTimeout
    points = store.points("c")
    for call in (
        lambda: points.upsert([Point("d", np.ones(D, np.float32), None, None, {}, "")]),
        lambda: points.delete(["d"]),
    ):
        with pytest.raises(DependencyUnavailable, match="did not carry it out in time"):
            await call()


async def test_a_ranking_is_read_as_ids_and_scores(qdrant: Qdrant, store: ServerStore) -> None:
    qdrant.hits = [wire.ScoredPoint(id=wire.PointId(uuid=point_id(f"d{n}")), score=1 / (n + 1)) for n in range(3)]
    window = SearchWindow(limit=2, condition=Equals("x", 2.5), consistency="majority", timeout_s=1.0)
    ranked = await store.points("c").rank(Nearest(np.ones(D, np.float32)), window)
    assert [(place.point_id, place.score) for place in ranked] == [(point_id("d0"), 1.0), (point_id("d1"), 0.5)]
    query = qdrant.asked[-1]
    assert list(query.query.nearest.dense.data) == [0.5] * D
    assert query.filter.must[0].field.range.gte == 2.5
    assert (query.limit, query.timeout, query.params.hnsw_ef) == (3, 1, 513)
    assert query.read_consistency.type == wire.ReadConsistencyType.Majority
    assert not query.with_payload.enable
    assert not query.with_vectors.enable
    await store.points("c").rank(WordMatch("red boots"), window)
    query = qdrant.asked[-1]
    assert query.using == "words_simple"
    assert len(query.query.nearest.sparse.indices) == 2
    assert query.params.idf.HasField("corpus")


async def test_a_hybrid_ranking_searches_the_graph_once(qdrant: Qdrant, store: ServerStore) -> None:
    """Every page reads all candidates, so none comes from a wider search than another."""
    qdrant.hits = [wire.ScoredPoint(id=wire.PointId(uuid=point_id(f"d{n}")), score=1 / (n + 1)) for n in range(1_000)]
    hybrid = Hybrid(Nearest(np.ones(D, np.float32)), WordMatch("red boots"), ReciprocalRanks(60), 1_000)
    places = await store.points("c").rank(hybrid, SearchWindow(limit=2))
    assert [place.point_id for place in places] == [point_id("d0"), point_id("d1")]
    embedding, words = sorted(qdrant.asked, key=lambda query: query.using)
    assert (embedding.limit, embedding.params.hnsw_ef) == (1_001, 1_001)
    assert words.using == "words_simple"


async def test_the_server_is_told_how_long_anyone_waits(qdrant: Qdrant, store: ServerStore) -> None:
    store.settings = replace(store.settings, timeout_s=10)
    for timeout_s, wanted in ((2.1, 3), (0.2, 1), (30.0, 10), (None, 10)):
        await store.points("c").search(Nearest(np.ones(D, np.float32)), SearchWindow(limit=3, timeout_s=timeout_s))
        assert qdrant.asked[-1].timeout == wanted


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.NOT_FOUND, PointsMissing),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, DependencyUnavailable),
        (grpc.StatusCode.UNAUTHENTICATED, DependencyUnavailable),
        (grpc.StatusCode.INTERNAL, DependencyUnavailable),
    ],
)
async def test_refusals(qdrant: Qdrant, store: ServerStore, code: grpc.StatusCode, kind: type[RetrievalError]) -> None:
    qdrant.refusal = (code, ())
    point = Point("d", np.ones(D, np.float32), None, None, {}, "")
    points = store.points("c")
    reads: list[Callable[[], Awaitable[object]]] = [
        lambda: points.count(RED),
        lambda: points.fetch(["d"]),
        lambda: points.search(Nearest(point.vector), SearchWindow(limit=1)),
    ]
    writes: list[Callable[[], Awaitable[object]]] = [lambda: points.upsert([point]), lambda: points.delete(["d"])]
    # It may still be carried out.
    of_a_write = WriteUnanswered if kind is DependencyUnavailable else kind
    for calls, expected in ((reads, kind), (writes, of_a_write)):
        for call in calls:
            with pytest.raises(expected, match="what Qdrant said") as raised:
                await call()
            assert type(raised.value) is expected


async def test_the_wait_asked_for_is_passed_on(qdrant: Qdrant, store: ServerStore) -> None:
    qdrant.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, (("retry-after", "9"),))
    with pytest.raises(Overloaded) as raised:
        await store.points("c").count(RED)
    assert raised.value.retry_after_s == 9


async def test_a_stall_is_over_when_the_stall_is_over(qdrant: Qdrant, store: ServerStore) -> None:
    """200 callers, who leave at once or wait for their time-out, leave the places to those who come after them."""
    points = store.points("c")
    await points.count(RED)
    for leave in (True, False):
        qdrant.hangs = True
        calls = [asyncio.ensure_future(points.count(RED)) for _ in range(200)]
        await asyncio.sleep(0.2)
        for call in calls:
            if leave:
                call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError if leave else DependencyUnavailable}
        qdrant.hangs = False
        async with asyncio.timeout(5):
            assert await asyncio.gather(*(points.count(RED) for _ in range(20))) == [7] * 20
        assert store.alive


async def test_connections_that_a_firewall_forgot_are_given_up_within_15_s(qdrant: Qdrant) -> None:
    """Each search ends in its own time-out meanwhile."""
    server = grpc.aio.server()
    add_CollectionsServicer_to_server(qdrant, server)
    add_PointsServicer_to_server(qdrant, server)
    add_QdrantServicer_to_server(qdrant, server)
    async with forgetful_proxy(server.add_insecure_port("127.0.0.1:0")) as proxy:
        await server.start()
        store = ServerStore(ServerStoreSettings("http://127.0.0.1:1", grpc_port=proxy.port, timeout_s=2))
        points = store.points("c")
        for _ in range(6):
            await points.count(RED)
        before = proxy.accepted
        proxy.forget()
        began = time.monotonic()
        answered = False
        while not answered and time.monotonic() - began < 40:
            asked = time.monotonic()
            with suppress(DependencyUnavailable):
                await points.count(RED)
                answered = True
            assert time.monotonic() - asked < 2 * 2 + 1
        assert time.monotonic() - began < 17
        assert proxy.accepted > before
        await store.close()
        await server.stop(None)


async def test_an_old_server_is_refused_over_grpc(qdrant: Qdrant, store: ServerStore) -> None:
    qdrant.version = "1.18.3"
    with pytest.raises(DependencyUnavailable, match=r"has version 1\.18\.3, the least is 1\.19: upgrade it"):
        await store.points("c").count(RED)
    qdrant.version = "1.20.0"
    assert await store.points("c").count(RED) == 7
    assert list(store.versions.values()) == ["1.20.0"]


async def test_no_more_calls_than_places_reach_the_server(qdrant: Qdrant, store: ServerStore) -> None:
    points = store.points("c")
    await points.count(RED)
    qdrant.hangs, qdrant.asked = True, []
    calls = [asyncio.ensure_future(points.count(RED)) for _ in range(200)]
    try:
        async with asyncio.timeout(10):
            while len(qdrant.asked) < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(qdrant.asked) == store.settings.connections == 100
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_a_server_that_hangs_is_given_up_after_the_time_out(qdrant: Qdrant, store: ServerStore) -> None:
    qdrant.hangs = True
    async with asyncio.timeout(5):
        with pytest.raises(DependencyUnavailable):
            await store.points("c").count(RED)
