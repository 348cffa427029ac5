"""The server store on the wire (REST, recorded), its settings, and that no error of the client stays the client's."""

import asyncio
import importlib
import inspect
import json
import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import grpc
import httpx
import numpy as np
import pytest
import qdrant_client
from declared_indexes import unfinished_indexes
from filter_strategies import filters
from hypothesis import given
from pydantic import BaseModel, ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse
from recorded_qdrant import Qdrant

from indexer.domain.documents import point_id
from indexer.domain.points import MetadataChange, Point
from indexer.errors import CollectionDamaged, CollectionUnavailable, IndexUnfinished, PointsMissing, WriteUnanswered
from indexer.filters import AllOf, Empty, Equals, FieldType, Filter, FullText, Nested, Not, Range
from indexer.observability.watch import Nobody
from indexer.store.base import Consistency, Layout, Quantization, SearchWindow, Summary
from indexer.store.criteria import LateInteraction, Nearest
from indexer.store.payload import path_of, payload_of, quoted
from indexer.store.server import store as server
from indexer.store.server import writing
from indexer.store.server.connection import connect, reach
from indexer.store.server.errors import TRANSLATED, to_retrieval_error, translating_errors
from indexer.store.server.filters import to_server
from indexer.store.server.graph import GraphSearch
from indexer.store.server.ranking import asked as reranked
from indexer.store.server.settings import CollectionSettings, ServerStoreSettings
from indexer.store.server.store import ServerStore
from indexer.store.vectors import just_below
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound, Overloaded, RetrievalError, TooLarge

D = 4

# ---------------------------------------------------------------------------------------------------------- errors


def exceptions_of(package: Any) -> set[type[Exception]]:
    """Every exception class that the package's modules define."""
    found = set()
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == info.name:
                found.add(value)
    return found


def exported_exceptions(module: Any) -> set[type[Exception]]:
    exported = (getattr(module, name) for name in dir(module) if not name.startswith("_"))
    return {each for each in exported if inspect.isclass(each) and issubclass(each, Exception)}


def test_every_exception_class_of_the_client_and_its_libraries_is_translated() -> None:
    of_client = exceptions_of(qdrant_client)
    assert {QdrantException, ResourceExhaustedResponse, ApiException, UnexpectedResponse} <= of_client
    everything = of_client | exported_exceptions(httpx) | exported_exceptions(grpc) | exported_exceptions(grpc.aio)
    assert len(everything) > 35
    assert [each for each in everything if not issubclass(each, TRANSLATED)] == []
    for kind in everything:
        error = made(kind)
        with pytest.raises(RetrievalError) as raised, translating_errors("search"):
            raise error
        assert raised.value.__cause__ is error
        assert raised.value.detail


def made(kind: type[Exception]) -> Exception:
    """An error of this class, as its library makes it."""
    request = httpx.Request("GET", "http://qdrant")
    own: dict[type[Exception], tuple[Any, ...]] = {
        UnexpectedResponse: (500, "reason", b"", httpx.Headers()),
        ResponseHandlingException: (OSError(),),
        ResourceExhaustedResponse: ("slow down", 7),
        grpc.aio.AioRpcError: (grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata()),
    }
    if kind is httpx.HTTPStatusError:
        return httpx.HTTPStatusError("bad", request=request, response=httpx.Response(500, request=request))
    if kind in own:
        return kind(*own[kind])
    try:
        return kind()
    except TypeError:
        return kind("what it says")


@pytest.mark.parametrize("threshold", [-1e39, -1e308, 1e39, float(np.finfo(np.float32).min), 0.5])
def test_a_threshold_stays_a_finite_number(threshold: float) -> None:
    assert np.isfinite(np.float32(just_below(threshold)))
    assert just_below(threshold) <= max(threshold, -float(np.finfo(np.float32).max))


class _Model(BaseModel):
    n: int


def validation_error() -> ValidationError:
    try:
        _Model(n="x")  # type: ignore[arg-type]
    except ValidationError as error:
        return error
    raise AssertionError


def unexpected(status: int | None) -> UnexpectedResponse:
    return UnexpectedResponse(status, "reason", b'{"status": {"error": "what Qdrant said"}}', httpx.Headers())


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="what Qdrant said")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (unexpected(400), InvalidInput),
        (unexpected(422), InvalidInput),
        (unexpected(401), DependencyUnavailable),
        (unexpected(403), DependencyUnavailable),
        (unexpected(404), PointsMissing),
        (unexpected(408), DependencyUnavailable),
        (unexpected(409), Conflict),
        (unexpected(413), TooLarge),
        (unexpected(429), Overloaded),
        (unexpected(500), DependencyUnavailable),
        (unexpected(503), DependencyUnavailable),
        (unexpected(302), DependencyUnavailable),
        (unexpected(None), DependencyUnavailable),
        (ResourceExhaustedResponse("slow down", 7), Overloaded),
        (QdrantException("Retry-After header value is not a valid integer: soon"), Overloaded),
        (ResponseHandlingException(httpx.ConnectError("refused")), DependencyUnavailable),
        (ResponseHandlingException(httpx.ReadTimeout("late")), DependencyUnavailable),
        (ResponseHandlingException(validation_error()), DependencyUnavailable),
        (ApiException("base"), DependencyUnavailable),
        (httpx.ConnectTimeout("late"), DependencyUnavailable),
        (httpx.InvalidURL("bad"), DependencyUnavailable),
        (httpx.StreamError("consumed"), DependencyUnavailable),
        (rpc_error(grpc.StatusCode.INVALID_ARGUMENT), InvalidInput),
        (rpc_error(grpc.StatusCode.NOT_FOUND), PointsMissing),
        (rpc_error(grpc.StatusCode.ALREADY_EXISTS), Conflict),
        (rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED), Overloaded),
        (rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED), DependencyUnavailable),
        (rpc_error(grpc.StatusCode.UNAVAILABLE), DependencyUnavailable),
        (rpc_error(grpc.StatusCode.UNAUTHENTICATED), DependencyUnavailable),
        (rpc_error(grpc.StatusCode.PERMISSION_DENIED), DependencyUnavailable),
        (rpc_error(grpc.StatusCode.INTERNAL), DependencyUnavailable),
        (grpc.RpcError(), DependencyUnavailable),
        (grpc.FutureTimeoutError(), DependencyUnavailable),
        (grpc.aio.UsageError("Channel is closed."), DependencyUnavailable),
        (ConnectionResetError(), DependencyUnavailable),
        (TimeoutError(), DependencyUnavailable),
        (RuntimeError("Client was closed."), DependencyUnavailable),
        (validation_error(), DependencyUnavailable),
        (json.JSONDecodeError("Expecting value", "<html>", 0), DependencyUnavailable),
        (ValueError("Out of range float values are not JSON compliant"), InvalidInput),
        (TypeError("bad"), InvalidInput),
    ],
    ids=lambda each: repr(each)[:60] if isinstance(each, Exception) else each.__name__,
)
def test_what_each_error_becomes(error: Exception, kind: type[RetrievalError]) -> None:
    with pytest.raises(RetrievalError) as raised, translating_errors("search"):
        raise error
    assert type(raised.value) is kind
    assert raised.value.__cause__ is error
    assert raised.value.retryable is (kind in (DependencyUnavailable, Overloaded))
    assert raised.value.detail


def test_every_status_and_every_code_has_a_meaning() -> None:
    for status in range(100, 600):
        assert type(to_retrieval_error(unexpected(status), "search")) is not RetrievalError
    for code in grpc.StatusCode:
        error = to_retrieval_error(rpc_error(code), "search")
        assert "what Qdrant said" in error.detail


def test_the_wait_that_qdrant_asks_for_is_passed_on() -> None:
    error = to_retrieval_error(ResourceExhaustedResponse("slow down", 7), "upsert")
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 7


async def test_a_cancelled_call_stays_cancelled_and_our_errors_ours() -> None:
    with pytest.raises(asyncio.CancelledError), translating_errors("search"):
        raise asyncio.CancelledError
    mine = NotFound("mine")
    with pytest.raises(NotFound) as raised, translating_errors("search"):
        raise mine
    assert raised.value is mine


# ---------------------------------------------------------------------------------------------------------- filters


@given(filters())
def test_grpc_says_what_rest_says(condition: Filter) -> None:
    sent = RestToGrpc.convert_filter(to_server(condition))
    assert RestToGrpc.convert_filter(GrpcToRest.convert_filter(sent)) == sent


def test_equal_numbers_are_sent_as_a_range() -> None:
    (condition,) = to_server(Equals("x", 2.5)).must  # type: ignore[union-attr, misc]
    assert condition.match is None
    assert (condition.range.gte, condition.range.lte) == (2.5, 2.5)


def test_a_bound_that_a_server_misreads_is_sent_as_the_double_beside_it() -> None:
    (condition,) = to_server(Range("x", gte=float(2**53 - 1))).must  # type: ignore[union-attr, misc]
    assert (condition.range.gt, condition.range.gte) == (float(2**53 - 2), None)


@pytest.mark.parametrize("field", ["x", "a b", "n.y", "br[0]", "é-x_1", "x[]"])
def test_paths_as_qdrant_shows_them_are_known_again(field: str) -> None:
    shown = "metadata." + ".".join(key if key.isidentifier() else f'"{key}"' for key in field.split("."))
    assert quoted(shown) == quoted(path_of(field)) == path_of(field)


# ---------------------------------------------------------------------------------------------------------- wire


def points(n: int) -> list[Point]:
    return [Point(f"d{i}", np.ones(D, np.float32), "text", None, {"i": i}, "hash") for i in range(n)]


@pytest.mark.parametrize("write", ["upsert", "delete", "set_metadata"])
async def test_a_write_without_an_answer_may_come_late(
    qdrant: Qdrant, serve: Callable[..., ServerStore], monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """A refused one does not."""
    store = serve()
    await store.create("c", D)
    qdrant.retrieved = [{"id": point_id("d0"), "payload": {}}]
    change = {"upsert": points(1), "delete": ["d0"], "set_metadata": [MetadataChange("d0", {"i": 1}, "hash")]}[write]
    await getattr(store.points("c"), write)(change)
    qdrant.refuse_writes = httpx.Response(503, json={"status": {"error": "1 of 2 copies failed"}})
    with pytest.raises(WriteUnanswered, match="1 of 2 copies failed"):
        await getattr(store.points("c"), write)(change)
    qdrant.refuse_writes = httpx.Response(429, json={"status": {"error": "slow down"}})
    with pytest.raises(Overloaded):
        await getattr(store.points("c"), write)(change)


async def test_a_collection_is_made_as_the_settings_say(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    collection = CollectionSettings(
        shards=6,
        replication_factor=3,
        write_consistency_factor=2,
        vectors_on_disk=True,
        payload_on_disk=False,
        quantization="scalar",
        hnsw_m=32,
        hnsw_ef_construct=200,
        indexing_threshold_kb=5_000,
    )
    await serve(collection=collection, collection_prefix="a-").create("c", D, {"region": FieldType.KEYWORD})
    (made,) = qdrant.bodies("PUT", "/ret2~a-~c")
    several = {"comparator": "max_sim"}
    assert made["vectors"] == {"size": D, "distance": "Cosine", "on_disk": True, "multivector_config": several}
    assert (made["shard_number"], made["replication_factor"], made["write_consistency_factor"]) == (6, 3, 2)
    assert made["on_disk_payload"] is False
    assert made["hnsw_config"] == {"m": 32, "ef_construct": 200}
    assert made["optimizers_config"] == {"indexing_threshold": 5_000}
    assert made["quantization_config"]["scalar"] == {"type": "int8", "quantile": 0.99, "always_ram": True}
    (index,) = qdrant.bodies("PUT", "/index")
    assert index == {"field_name": '"metadata"."region"', "field_schema": "keyword"}


@pytest.mark.parametrize("quantization", ["scalar", "binary", "product", "none"])
async def test_quantized_candidates_are_rescored(
    qdrant: Qdrant, serve: Callable[..., ServerStore], quantization: Quantization
) -> None:
    store = serve(collection=CollectionSettings(quantization=quantization, oversampling=3, hnsw_ef=99))
    await store.create("c", D)
    await store.points("c").search(Nearest(np.ones(D, np.float32)), SearchWindow(limit=5))
    (made,), (asked,) = qdrant.bodies("PUT", "/ret2~~c"), qdrant.bodies("POST", "/query")
    late = LateInteraction(np.ones(D, np.float32), np.ones((2, D), np.float32), 400)
    oversampling = None if quantization == "none" else 3.0
    params = GraphSearch.of(SearchWindow(5), 99, most_ef=1_000, oversampling=oversampling).params(99, 99)
    outer, _ = reranked(late, Layout(D, latents=True), "c", None, params) or ({}, 0)
    assert outer["search_params"] == outer["prefetch"].params == params
    assert asked["params"]["hnsw_ef"] == 100
    if quantization == "none":
        assert "quantization_config" not in made
        assert "quantization" not in asked["params"]
    else:
        assert quantization in made["quantization_config"]
        # As many candidates for every page: 297 of 3 * 99, for the six hits that are asked for.
        assert asked["params"]["quantization"]["rescore"]
        assert math.ceil(6 * asked["params"]["quantization"]["oversampling"]) == 297


async def test_every_page_asks_the_graph_alike(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    """The second hundred comes from a wider search, without the hits of the first."""
    store = serve(collection=CollectionSettings(hnsw_ef=100))
    await store.create("c", D)
    hits = [{"id": str(UUID(int=number)), "version": 0, "score": 1 - number / 1_000} for number in range(300)]
    answers = {101: [hits[number] for number in range(0, 300, 2)], 201: hits}
    qdrant.answer_query = lambda body: answers[body["params"]["hnsw_ef"]][: body["limit"]]
    points, ones = store.points("c"), np.ones(D, np.float32)
    walked = []
    for offset in range(0, 200, 10):
        ranked = await points.rank(Nearest(ones), SearchWindow(10, offset))
        walked += [UUID(place.point_id).int for place in ranked]
    assert len(set(walked)) == 200
    assert walked[:100] == list(range(0, 200, 2))
    assert set(walked[100:]) == set(range(200)) - set(walked[:100])
    assert {body["params"]["hnsw_ef"] for body in qdrant.bodies("POST", "/query")[:10]} == {101}


async def test_a_search_may_be_exact_or_as_wide_as_it_says(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    store = serve(collection=CollectionSettings(quantization="scalar"))
    await store.create("c", D)
    ones = np.ones(D, np.float32)
    await store.points("c").search(Nearest(ones), SearchWindow(5, exact=True))
    await store.points("c").search(Nearest(ones), SearchWindow(5, ef=50))
    await store.points("c").search(Nearest(ones), SearchWindow(5))
    asked = [body["params"] for body in qdrant.bodies("POST", "/query")]
    assert asked[0] == {"exact": True, "quantization": {"ignore": True}}
    assert [params["hnsw_ef"] for params in asked[1:]] == [51, 513]


@pytest.mark.parametrize("consistency", ["one", "majority", "quorum", "all"])
async def test_consistency_goes_with_both_calls_of_a_search(
    qdrant: Qdrant, serve: Callable[..., ServerStore], consistency: Consistency
) -> None:
    store = serve()
    await store.create("c", D)
    hit = {"id": point_id("d0"), "version": 0, "score": 1.0}
    qdrant.points = [hit, {**hit, "id": point_id("d1")}]
    await store.points("c").search(
        Nearest(np.ones(D, np.float32)), SearchWindow(limit=1, offset=1, consistency=consistency)
    )
    queries = {path: query.get("consistency") for method, path, query, _ in qdrant.asked if method == "POST"}
    wanted = None if consistency == "one" else consistency
    assert queries == {"/ret2~~c/points/query": wanted, "/ret2~~c/points": wanted}


async def test_writes_wait_and_go_in_calls_of_the_set_size(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    store = serve(upsert_points=64)
    await store.create("c", D)
    await store.points("c").upsert(points(150))
    await store.points("c").delete(["d0", "d1"])
    writes = [(query, body) for method, path, query, body in qdrant.asked if path.endswith(("/points", "/delete"))]
    assert [len(body["points"]) for _, body in writes] == [64, 64, 22, 2]
    assert all(query["wait"] == "true" for query, _ in writes)
    assert writes[0][1]["points"][1]["id"] == point_id("d1")
    assert writes[0][1]["points"][1]["payload"]["metadata"] == {"i": 1}
    assert writes[3][1]["points"] == [point_id("d0"), point_id("d1")]


async def test_indexing_is_deferred_and_goes_on_as_the_settings_say(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    store = serve(collection=CollectionSettings(indexing_threshold_kb=7_000), collection_prefix="a-")
    await store.create("c", D)
    qdrant.thresholds["ret2~a-~c"] = 3_000  # as it was made, or somebody set it: not ours to change
    changed = [await store.defer_indexing("c", deferred) for deferred in (False, True, True, False, False)]
    assert changed == [False, True, False, True, False]
    told = [body["optimizers_config"] for body in qdrant.bodies("PATCH", "/ret2~a-~c")]
    assert told == [{"indexing_threshold": 0}, {"indexing_threshold": 7_000}]
    with pytest.raises(NotFound):
        await store.defer_indexing("other", True)


async def test_a_search_makes_no_index(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    store = serve()
    await store.create("c", D)
    writes = len([method for method, *_ in qdrant.asked if method in ("PUT", "PATCH", "DELETE")])
    for condition in (Equals("region", "Europe"), FullText("region", "red"), Range("n", gt=1.0)):
        await store.points("c").search(Nearest(np.ones(D, np.float32)), SearchWindow(limit=5, condition=condition))
        await store.points("c").page(None, 10, condition)
    assert len([method for method, *_ in qdrant.asked if method in ("PUT", "PATCH", "DELETE")]) == writes


async def test_a_filter_that_would_read_too_many_documents_is_refused_with_what_to_declare(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    store = serve(readable_documents=1_000)
    await store.create("c", D, {"n": FieldType.NUMBER, "t": FieldType.TEXT})
    qdrant.held["ret2~~c"] = 1_001
    points, ones = store.points("c"), np.ones(D, np.float32)
    with pytest.raises(
        InvalidInput, match=r'no index for field a.b .* 1001 documents, the limit is 1000.*"a.b": "bool"'
    ):
        await points.search(Nearest(ones), SearchWindow(5, condition=Not(Equals("a.b", True))))
    with pytest.raises(IndexUnfinished, match=r"field n .* is being built"):
        await points.search(Nearest(ones), SearchWindow(5, condition=Range("n", gt=1.0)))
    qdrant.schema = {path: {"data_type": kind, "points": 9} for path, kind in qdrant.indexes["ret2~~c"].items()}
    await points.search(Nearest(ones), SearchWindow(5, condition=AllOf((Range("n", gt=1.0), FullText("t", "red")))))
    assert await unfinished_indexes(store, "c", {"n": FieldType.NUMBER, "x": FieldType.GEO}) == ["x"]
    with pytest.raises(InvalidInput, match="declared as another type"):
        await points.page(None, 5, Equals("t", "red"))
    with pytest.raises(InvalidInput, match="inside nested have no index"):
        await points.page(None, 5, Nested("t", Equals("x", "red")))
    qdrant.held["ret2~~c"] = 1_000
    await points.search(Nearest(ones), SearchWindow(5, condition=Equals("a.b", True)))


async def test_strict_mode_without_unindexed_filtering_reads_nothing(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    qdrant.strict = {"enabled": True, "unindexed_filtering_retrieve": False}
    store = serve()
    qdrant.held["ret2~~c"] = 1
    await store.create("c", D)
    with pytest.raises(InvalidInput, match="the limit is 0"):
        await store.points("c").search(Nearest(np.ones(D, np.float32)), SearchWindow(5, condition=Empty("x")))


async def test_an_index_that_another_application_made_is_named(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    store = serve()
    await store.create("c", D)
    qdrant.schema = {"metadata.x": {"data_type": "integer", "points": 0}}
    with pytest.raises(Conflict, match=r"index of type integer on metadata\.x"):
        await serve().points("c").count()


async def test_a_collection_of_an_earlier_version_is_refused(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    store = serve()
    await store.create("c", D)
    qdrant.metadata["ret2~~c"] = {"ret2": {"prefix": "", "collection": "c"}}
    with pytest.raises(CollectionDamaged, match="earlier version of ret2"):
        await serve().points("c").count()
    await serve().drop("c")


async def test_what_is_known_of_a_collection_is_asked_again_after_a_while(
    qdrant: Qdrant, serve: Callable[..., ServerStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = serve()
    await store.create("c", D)
    before = len(qdrant.asked)
    await store.points("c").fetch(["d0"])
    assert len(qdrant.asked) == before + 1
    monkeypatch.setattr(server, "DESCRIPTION_MAX_AGE_S", -1.0)
    await store.describe("c", fresh=True)
    del qdrant.dimensions["ret2~~c"]
    with pytest.raises(NotFound):
        await store.points("c").fetch(["d0"])


async def test_many_callers_at_once_ask_once_what_a_collection_is(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    """A caller who leaves takes the answer from nobody else, and each has its error."""
    qdrant.add("c", D)
    store = serve()
    first, *others = [asyncio.ensure_future(store.describe("c")) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    assert {description.layout.dimensions for description in await asyncio.gather(*others)} == {D}
    assert len(qdrant.asked) == 2  # whether there is one, and what it is
    missing = await asyncio.gather(*(store.describe("absent") for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in missing] == [PointsMissing] * 5


async def test_losing_the_race_to_make_a_collection_is_no_error(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    store = serve()

    class Winner(Qdrant):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            answer = qdrant(request)
            if request.method == "PUT" and request.url.path == "/collections/c":
                return httpx.Response(409, json={"status": {"error": "Collection `c` already exists!"}})
            return answer

    store.client.http.client._async_client._transport = httpx.MockTransport(Winner())
    await store.create("c", D)
    with pytest.raises(Conflict, match=f"has {D} dimensions"):
        await store.create("c", D + 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(429, headers={"Retry-After": "7"}, json={"status": {"error": "slow down"}}), Overloaded),
        (httpx.Response(503, text="no"), DependencyUnavailable),
        (httpx.Response(200, text="<html>a proxy</html>"), DependencyUnavailable),
        (httpx.Response(401, text="no key"), DependencyUnavailable),
    ],
    ids=["429", "503", "not Qdrant", "401"],
)
async def test_refusals_over_the_wire(
    qdrant: Qdrant, serve: Callable[..., ServerStore], answer: httpx.Response, kind: type[RetrievalError]
) -> None:
    qdrant.refuse = answer
    with pytest.raises(kind):
        await serve().ping()


async def test_a_server_that_is_not_there(serve: Callable[..., ServerStore]) -> None:
    for prefer_grpc in (True, False):
        store = ServerStore(
            ServerStoreSettings("http://127.0.0.1:9", prefer_grpc=prefer_grpc, grpc_port=9, timeout_s=1)
        )
        with pytest.raises(DependencyUnavailable):
            await store.ping()
        await store.close()
        with pytest.raises(DependencyUnavailable):
            await store.ping()


# ---------------------------------------------------------------------------------------------------------- settings


async def test_the_connection_is_what_the_settings_say() -> None:
    client = connect(ServerStoreSettings("https://qdrant.example:443", api_key="secret", timeout_s=7))
    remote = client._client
    assert (remote._https, remote._prefer_grpc, remote._grpc_port, remote._timeout) == (True, True, 6334, 7)
    assert ("api-key", "secret") in remote._grpc_headers
    assert remote._grpc_options["grpc.keepalive_time_ms"] == 10_000
    assert remote._rest_headers["api-key"] == "secret"
    await client.close()


async def test_a_key_over_an_open_connection_is_warned_of_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    await reach(ServerStoreSettings("http://qdrant:6333", api_key="secret")).close()
    assert "unencrypted" in caplog.text
    assert "secret" not in caplog.text
    assert "secret" not in repr(ServerStoreSettings("http://qdrant:6333", api_key="secret"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ServerStoreSettings("http://q", upsert_points=63),
        lambda: ServerStoreSettings("http://q", upsert_points=257),
        lambda: ServerStoreSettings("http://q", timeout_s=0),
        lambda: CollectionSettings(write_consistency_factor=2),
        lambda: CollectionSettings(oversampling=0.5),
        lambda: CollectionSettings(indexing_threshold_kb=0),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"limit is|the least is"):
        make()


async def test_latents_are_kept_on_disk_and_whole(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    await serve(collection=CollectionSettings(quantization="scalar")).create("c", D, latents=True)
    (made,) = qdrant.bodies("PUT", "/ret2~~c")
    assert "quantization_config" not in made
    assert made["vectors"][""]["quantization_config"]["scalar"]["type"] == "int8"
    latents = made["vectors"]["latents"]
    assert (latents["on_disk"], latents.get("quantization_config")) == (True, None)


async def test_the_states_of_the_collections_in_use_are_watched(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    seen: list[Mapping[str, int]] = []

    class Watching(Nobody):
        def saw_collections(self, states: Mapping[str, int]) -> None:
            seen.append(states)

    store = serve()
    store.watch = Watching()
    for name in ("a", "b"):
        qdrant.add(name, D)
        await store.describe(name)
    qdrant.status = "red"
    (shown,) = (await store.summaries(["b"])).values()
    assert isinstance(shown, Summary)
    assert shown.kept is not None
    assert shown.kept.status == "red"
    assert seen == [{"green": 1}, {"green": 2}, {"green": 1, "red": 1}]


async def test_documents_are_counted_by_the_collection_s_own_number(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    """An exact count would collect the ids of all of them."""
    store = serve()
    await store.create("c", D)
    qdrant.held["ret2~~c"] = 7
    (shown,) = (await store.summaries(["c"])).values()
    assert isinstance(shown, Summary)
    assert shown.documents == await store.points("c").count() == 7
    assert not qdrant.bodies("POST", "/count")
    await store.points("c").count(Equals("x", "red"))
    assert [body["exact"] for body in qdrant.bodies("POST", "/count")] == [True]


async def test_answers_of_a_newer_server_are_read(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    qdrant.newer = True
    store = serve(collection=CollectionSettings(quantization="scalar"))
    await store.create("c", D)
    qdrant.schema = {"metadata.n": {"data_type": "keyword", "params": {"type": "keyword"}, "points": 3}}
    description = await store.describe("c", fresh=True)
    assert description.layout.dimensions == D
    assert description.quantized
    assert list(description.indexed) == [path_of("n")]
    await store.points("c").upsert(points(1))
    qdrant.points = [{"id": point_id("d0"), "version": 1, "score": 0.5, "payload": payload_of(points(1)[0])}]
    (hit,) = await store.points("c").search(Nearest(np.ones(D, np.float32)), SearchWindow(1))
    assert (hit.document_id, hit.score) == ("d0", 0.5)


async def test_writes_are_cut_by_their_bytes_too(
    qdrant: Qdrant, serve: Callable[..., ServerStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "CALL_BYTES", 10_000)
    store = serve(upsert_points=64)
    await store.create("c", D)
    texts = ["x" * 4_000] * 4 + ["x" * 20_000] + ["x"] * 70
    written = [Point(f"d{i}", np.ones(D, np.float32), text, None, {}, "") for i, text in enumerate(texts)]
    await store.points("c").upsert(written)
    sent = [body["points"] for method, path, _, body in qdrant.asked if path.endswith("/points")]
    assert [len(points) for points in sent] == [2, 2, 1, 64, 6]
    assert [point["id"] for points in sent for point in points] == [point_id(point.document_id) for point in written]


@pytest.mark.parametrize(("copies", "ordering"), [(1, None), (2, "medium")])
async def test_writes_to_copies_have_one_order(
    qdrant: Qdrant, serve: Callable[..., ServerStore], copies: int, ordering: str | None
) -> None:
    store = serve(collection=CollectionSettings(replication_factor=copies))
    await store.create("c", D)
    await store.points("c").upsert(points(1))
    await store.points("c").delete(["d0"])
    writes = [query for method, path, query, _ in qdrant.asked if path.endswith(("/points", "/delete"))]
    assert [query.get("ordering") for query in writes] == [ordering] * 2


async def test_a_collection_that_is_made_though_time_ran_out_is_there(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    """A server with a node down answers so."""
    store = serve()
    answer = qdrant.__call__

    def late(request: httpx.Request) -> httpx.Response:
        made = answer(request)
        late_now = request.method == "PUT" and request.url.path == "/collections/ret2~~c"
        return httpx.Response(503, json={"status": {"error": "Deadline Exceeded"}}) if late_now else made

    store.client.http.client._async_client._transport = httpx.MockTransport(late)
    await store.create("c", D)
    assert (await store.points("c").layout()).dimensions == D


async def test_what_is_not_set_is_left_to_the_server(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    await serve().create("c", D)
    (made,) = qdrant.bodies("PUT", "/ret2~~c")
    assert not made.keys() & {"replication_factor", "write_consistency_factor", "on_disk_payload", "shard_number"}
    assert "on_disk" not in made["vectors"]


async def test_a_collection_s_own_copies_and_quantization_count(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    """Another process made it, or somebody changed it by Qdrant's own API."""
    made = CollectionSettings(replication_factor=2, quantization="scalar")
    await serve(collection=made).create("c", D)
    points_ = serve().points("c")
    await points_.upsert(points(1))
    await points_.search(Nearest(np.ones(D, np.float32)), SearchWindow(5))
    (write,) = [query for method, path, query, _ in qdrant.asked if path.endswith("/points") and method == "PUT"]
    assert write["ordering"] == "medium"
    assert qdrant.bodies("POST", "/query")[0]["params"]["quantization"]["rescore"]


STRICT = {"enabled": True, "upsert_max_batchsize": 50, "search_max_hnsw_ef": 64, "max_timeout": 2}


async def test_calls_keep_to_the_limits_of_strict_mode(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    store = serve()
    await store.create("c", D)
    qdrant.strict = STRICT
    await store.describe("c", fresh=True)
    points_, ones = store.points("c"), Nearest(np.ones(D, np.float32))
    await points_.upsert(points(120))
    sent = [body["points"] for method, path, _, body in qdrant.asked if path.endswith("/points")]
    assert [len(part) for part in sent] == [50, 50, 20]
    await points_.search(ones, SearchWindow(5))
    await points_.search(ones, SearchWindow(5, ef=200))
    # An `ef` that a caller names is the server's to refuse.
    assert [body["params"]["hnsw_ef"] for body in qdrant.bodies("POST", "/query")] == [64, 201]
    assert [query["timeout"] for _, path, query, _ in qdrant.asked if path.endswith("/query")] == ["2", "2"]


async def test_a_limit_of_strict_mode_is_no_document_s_fault(qdrant: Qdrant, serve: Callable[..., ServerStore]) -> None:
    store = serve()
    await store.create("c", D)
    said = 'Bad request: Limit exceeded 10 > 5 for "upsert limit". Help: Reduce the "upsert limit" parameter.'
    answer = qdrant.__call__

    def strict(request: httpx.Request) -> httpx.Response:
        made = answer(request)
        written = request.method == "PUT" and request.url.path.endswith("/points")
        return httpx.Response(400, json={"status": {"error": said}}) if written else made

    store.client.http.client._async_client._transport = httpx.MockTransport(strict)
    with pytest.raises(CollectionUnavailable, match="strict mode on the Qdrant server: change its limits there"):
        await store.points("c").upsert(points(1))


async def test_a_collection_of_another_size_is_damaged_not_its_documents(
    qdrant: Qdrant, serve: Callable[..., ServerStore]
) -> None:
    """Made anew on the server, with our mark, since it was described."""
    store = serve()
    await store.create("c", D)
    qdrant.dimensions["ret2~~c"] = D + 1
    answer = qdrant.__call__

    def other(request: httpx.Request) -> httpx.Response:
        made = answer(request)
        written = request.method == "PUT" and request.url.path.endswith("/points")
        return httpx.Response(400, json={"status": {"error": "Wrong input: Vector dimension"}}) if written else made

    store.client.http.client._async_client._transport = httpx.MockTransport(other)
    for _ in range(2):
        with pytest.raises(CollectionDamaged, match=rf"has 0 points of {D + 1} dim.* instead of {D} dimensions"):
            await store.points("c").upsert(points(1))


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_does_not_suffice_is_named(status: int) -> None:
    error = to_retrieval_error(unexpected(status), "upsert")
    assert isinstance(error, DependencyUnavailable)
    assert error.detail == (
        f"Qdrant failed in upsert: {status}: what Qdrant said. Give RET2_QDRANT_API_KEY or RET2_QDRANT_API_KEY_FILE a "
        "key with the rights for this"
    )
