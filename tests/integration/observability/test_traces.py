"""One trace from the request through encoder and store, and through the ledger to the worker; its ids in every log line; sent over OTLP."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from local_http import serving
from needs import needed
from opentelemetry import trace
from prometheus_client import CollectorRegistry

sdk = needed("opentelemetry.sdk.trace")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from indexer.encoding.encoder import Lane  # noqa: E402
from indexer.encoding.http_encoder import EncoderClientSettings, HttpEncoder  # noqa: E402
from indexer.observability import tracing  # noqa: E402
from model.errors import InvalidInput  # noqa: E402
from model.types import Input, Role  # noqa: E402
from service.encoder.app import EncoderParts, create_encoder_app  # noqa: E402
from service.encoder.batcher import Batcher  # noqa: E402
from service.encoder.models import LocalModels  # noqa: E402
from service.observability import tracing as service_tracing  # noqa: E402
from service.observability.metrics import Metrics  # noqa: E402
from service.settings import ServerRole, Settings  # noqa: E402

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = CALLER.split("-")[1]


class Spans:
    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self, name: str, trace: str = TRACE) -> ReadableSpan:
        found = [span for span in self.all() if span.name == name and trace_of(span) == trace]
        assert len(found) == 1, (name, [(span.name, trace_of(span)) for span in self.all()])
        return found[0]

    def parent(self, span: ReadableSpan) -> ReadableSpan:
        assert span.parent is not None
        return next(one for one in self.all() if one.context.span_id == span.parent.span_id)


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """In memory; OpenTelemetry's own provider can be set only once in a process."""
    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    monkeypatch.setattr(tracing, "recording", lambda: True)
    return Spans(exporter)


async def test_a_search_is_one_trace(spans: Spans, served: Any) -> None:
    await served.load({"id": "a", "text": "red"})
    body = {"collection": "flags", "query": {"text": "red"}}
    await served.client.post("/search", json=body, headers={"traceparent": CALLER, "x-request-id": "id-7"})
    request = spans.one("POST /search")
    assert f"{request.parent.span_id:016x}" == CALLER.split("-")[2]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["http.route"] == "/search"
    assert request.attributes["ret2.request_id"] == "id-7"
    encode, store = spans.one("encode"), spans.one("store search")
    assert spans.parent(encode) is spans.parent(store) is request
    assert (encode.attributes["ret2.inputs"], encode.attributes["ret2.lane"]) == (1, "search")
    assert encode.attributes["ret2.encode_ms"] > 0


async def test_a_document_is_followed_through_the_ledger(spans: Spans, served: Any) -> None:
    await served.client.put("/collections/flags")
    posted = await served.client.post(
        "/collections/flags/documents?wait=true", json=[{"id": "a", "text": "red"}], headers={"traceparent": CALLER}
    )
    job = posted.json()["job"]["id"]
    request, index = spans.one("POST /collections/{name}/documents"), spans.one("index")
    assert spans.parent(index) is request
    assert index.attributes["ret2.job"] == job
    assert index.attributes["ret2.collection"] == "flags"
    assert spans.parent(spans.one("encode")) is index
    assert spans.parent(spans.one("store upsert")) is index


async def test_batches_of_several_requests_are_linked(spans: Spans, served: Any, runtime: Any) -> None:
    """One encoder call may work for several: it is in the trace of the first, and points to the others'."""
    await served.client.put("/collections/flags")
    runtime.gate.clear()
    callers = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 6)]
    for number, caller in enumerate(callers):
        document = {"id": f"{number}", "text": f"red {number}"}
        await served.client.post("/collections/flags/documents", json=[document], headers={"traceparent": caller})
    runtime.gate.set()
    await served.load({"id": "last", "text": "blue"})
    async with asyncio.timeout(30):
        while await served.parts.ledger.jobs.pending_documents():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await served.parts.worker.stop()
    indexed = [span for span in spans.all() if span.name == "index"]
    linked = {f"{link.context.trace_id:032x}" for span in indexed for link in span.links}
    first = {trace_of(span) for span in indexed}
    assert linked, "several were claimed together"
    assert {caller.split("-")[1] for caller in callers} <= linked | first


async def test_what_fails_is_marked_and_its_words_are_not_kept(
    spans: Spans, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("content-of-a-document")

    await served.client.put("/collections/flags")
    monkeypatch.setattr(served.parts.store, "_call", broken)
    response = await served.client.get("/collections/flags/documents/secret-id", headers={"traceparent": CALLER})
    assert response.status_code == 500
    store, request = spans.one("store fetch"), spans.one("GET /collections/{name}/documents/{id}")
    assert not store.status.is_ok
    assert not request.status.is_ok
    assert store.attributes["error.type"] == "RuntimeError"
    said = " ".join(span.to_json() for span in spans.all())
    assert "content-of-a-document" not in said
    assert "secret-id" not in said


@pytest.mark.parametrize("header", ["", "nonsense", "00-0-0-01", "ff" * 40])
async def test_a_wrong_context_harms_nothing(spans: Spans, served: Any, header: str) -> None:
    response = await served.client.get("/info", headers={"traceparent": header})
    assert response.status_code == 200
    (request,) = [span for span in spans.all() if span.name == "GET /info"]
    assert request.parent is None


async def test_probes_are_not_traced(spans: Spans, served: Any) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        await served.client.get(path)
    assert {span.name for span in spans.all() if "GET" in span.name} == set()


# --- across processes


@pytest.fixture
async def remote(runtime: Any) -> AsyncIterator[Callable[[], HttpEncoder]]:
    """An encoder application, and clients of it."""
    settings, metrics = Settings(role=ServerRole.ENCODER), Metrics(CollectorRegistry())
    app = create_encoder_app(
        EncoderParts(settings, metrics, LocalModels.of(Batcher(runtime, settings.queue(2_048), metrics)))
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        yield lambda: HttpEncoder(EncoderClientSettings("http://encoder"), transport=httpx.ASGITransport(app))


async def test_the_encoder_s_request_belongs_to_the_caller_s_trace(
    spans: Spans, remote: Callable[[], HttpEncoder]
) -> None:
    with tracing.span("outside", parent=tracing.context_of(CALLER)):
        await remote().encode([Input("red")], role=Role.QUERY, lane=Lane.SEARCH)
    there = spans.one("POST /encode")
    assert spans.parent(there) is spans.one("call encoder")
    assert spans.parent(spans.one("call encoder")) is spans.one("outside")
    assert spans.parent(spans.one("encode")) is there


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged, with the context that each line is written in."""
    before = structlog.get_config()
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, service_tracing.add_trace, capture])
    yield capture.entries
    structlog.configure(**before)


async def test_the_encoder_s_log_has_the_caller_s_request_id(
    lines: list[dict[str, Any]], remote: Callable[[], HttpEncoder]
) -> None:
    with structlog.contextvars.bound_contextvars(request_id="id-7"):
        await remote().encode([Input("red")], role=Role.QUERY, lane=Lane.SEARCH)
    with structlog.contextvars.bound_contextvars(job="0123"):
        await remote().encode([Input("red")], role=Role.QUERY, lane=Lane.BULK)
    found = [line["request_id"] for line in lines if line.get("route") == "/encode"]
    assert found == ["id-7", "job:0123"]


async def test_every_line_of_a_job_names_it(
    lines: list[dict[str, Any]], spans: Spans, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError

    await served.client.put("/collections/flags")
    points = type(served.parts.store.points("flags"))
    upsert = points.upsert
    monkeypatch.setattr(points, "upsert", broken)
    posted = await served.client.post(
        "/collections/flags/documents",
        json=[{"id": "a", "text": "red"}],
        headers={"traceparent": CALLER, "x-request-id": "id-7"},
    )
    job = posted.json()["job"]["id"]
    async with asyncio.timeout(30):
        while not (failed := [line for line in lines if line["event"] == "batch failed"]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    monkeypatch.setattr(points, "upsert", upsert)
    assert (failed[0]["job"], failed[0]["trace_id"]) == (job, TRACE)
    accepted = [line for line in lines if line.get("request_id") == "id-7"]
    assert {line["event"] for line in accepted} == {"audit", "request"}
    assert {(line["job"], line["trace_id"]) for line in accepted} == {(job, TRACE)}


# --- sent


class Receiver(BaseHTTPRequestHandler):
    """As much of an OpenTelemetry collector as takes traces."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Any]:
    with serving(Receiver) as server:
        server.received = []  # type: ignore[attr-defined]
        yield server


_PROCESS = """
import sys
from indexer.observability import tracing
from service.observability.tracing import start_traces

start_traces("api")
with tracing.span("outer", parent=tracing.context_of(sys.argv[1])), tracing.span("inner", documents=3):
    print(tracing.here())
"""


def run(**environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, CALLER], env=inherited | environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_process_sends_its_spans(collector: Any) -> None:
    inner = run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_address[1]}")
    ((path, body),) = collector.received
    assert path == "/v1/traces"
    message = ExportTraceServiceRequest.FromString(body)
    (resource,) = message.resource_spans
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == "ret2-api"
    sent = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert set(sent) == {"outer", "inner"}
    assert {span.trace_id.hex() for span in sent.values()} == {TRACE}
    assert sent["inner"].parent_span_id == sent["outer"].span_id
    assert sent["inner"].span_id.hex() == inner.split("-")[2]


def test_without_an_address_nothing_is_recorded_and_the_context_goes_on() -> None:
    assert run() == CALLER


async def test_where_nothing_is_recorded_a_caller_s_context_reaches_the_encoder(
    remote: Callable[[], HttpEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a request without one costs no span at all."""
    seen: list[int] = []
    encode = Batcher.encode

    async def noting(self: Batcher, *items: Any, **options: Any) -> Any:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return await encode(self, *items, **options)

    monkeypatch.setattr(Batcher, "encode", noting)
    with monkeypatch.context() as patched:  # the caller is in this process: what it hands on must come by the header
        patched.setattr(tracing, "headers", lambda: {"traceparent": CALLER})
        await remote().encode([Input("red")], role=Role.QUERY, lane=Lane.SEARCH)
    with monkeypatch.context() as patched:
        patched.setattr(tracing, "_tracer", None)  # what would begin one
        with tracing.span("outside"):
            await remote().encode([Input("red")], role=Role.QUERY, lane=Lane.SEARCH)
    assert seen == [int(TRACE, 16), 0]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InvalidInput, match=r"ret2\[otel\]"):
        service_tracing.start_traces("api")
