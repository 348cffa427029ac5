"""Prometheus metrics, and one INFO line for each request with its id. Never texts, image bytes or keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.domain.jobs import Overview
from indexer.encoding.encoder import Lane
from indexer.encoding.registry import ServedModel

log = structlog.get_logger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_COSTS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """The counters of the model's runtime since it was loaded. A position of a text is a token, or padding beside a
    longer text."""

    tokens: int = 0
    padding: int = 0
    oom_recoveries: int = 0
    memory_bytes: Mapping[str, int] = field(default_factory=dict)  # used, reserved and total; none on a CPU


class _Models(Collector):
    """What the runtimes of the models have counted, asked at each scrape. Memory is of the device, which they share."""

    def __init__(self) -> None:
        self.states: dict[str, Callable[[], DeviceState]] = {}

    def collect(self) -> Iterator[Metric]:
        states = {name: state() for name, state in list(self.states.items())}
        positions = CounterMetricFamily("ret2_text_positions", "Text positions computed", labels=["model", "kind"])
        for name, state in states.items():
            positions.add_metric([name, "token"], state.tokens)
            positions.add_metric([name, "padding"], state.padding)
        yield positions
        yield CounterMetricFamily(
            "ret2_oom_recoveries",
            "Batches halved because the device was out of memory",
            value=sum(state.oom_recoveries for state in states.values()),
        )
        memory = GaugeMetricFamily("ret2_device_memory_bytes", "Memory of the models' device", labels=["kind"])
        for kind, size in next((state.memory_bytes for state in states.values()), {}).items():
            memory.add_metric([kind], size)
        yield memory


class Metrics:
    """Every metric of this process, in the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        seconds = partial(histogram, buckets=_SECONDS)
        self.requests = counter("ret2_requests", "HTTP requests answered", ["route", "method", "status"])
        self.request_seconds = seconds("ret2_request_seconds", "HTTP request duration", ["route"])
        self.requests_in_flight = gauge("ret2_requests_in_flight", "HTTP requests being answered")
        self.models = gauge(
            "ret2_model_info",
            "The models behind this process, and the state of each",
            ["name", "fingerprint", "dimensions", "state"],
        )
        self.queue_wait_seconds = seconds("ret2_queue_wait_seconds", "From prepared to the start of a batch", ["lane"])
        self.batch_fill_ratio = histogram(
            "ret2_batch_fill_ratio", "Cost of a batch over its budget", ["model", "lane"], buckets=_RATIOS
        )
        self._runtimes = _Models()
        registry.register(self._runtimes)
        self.queue_cost = gauge("ret2_queue_cost", "Cost waiting for the model", ["lane"])
        self.overloaded = counter("ret2_overloaded", "Encoder calls refused because a lane was full", ["lane"])
        self.encoded = counter("ret2_encoded_inputs", "Inputs answered by the encoder", ["model", "lane", "outcome"])
        self.batch_inputs = histogram("ret2_batch_inputs", "Inputs per batch", ["model", "lane"], buckets=_COUNTS)
        self.batch_cost = histogram("ret2_batch_cost", "Cost per batch", ["model", "lane"], buckets=_COSTS)
        self.forward_seconds = seconds("ret2_forward_seconds", "Duration of a forward", ["model", "lane"])
        self.prepare_seconds = seconds("ret2_prepare_seconds", "Decoding and tokenising one input")
        self.store_seconds = seconds("ret2_store_search_seconds", "Vector search")
        self.hits = histogram("ret2_search_hits", "Hits per search", buckets=(0, *_COUNTS))
        self.pending_documents = gauge("ret2_pending_documents", "Accepted documents not yet indexed")
        self.jobs = gauge("ret2_jobs", "Accepted jobs that are kept, by state", ["state"])
        self.oldest_pending_seconds = gauge("ret2_oldest_pending_seconds", "Age of the oldest job that is not finished")
        self.documents = counter("ret2_documents", "Documents that this process has done", ["result"])
        self.batch_retries = counter(
            "ret2_batch_retries",
            "Batches given back: waiting for what does not answer, or after an attempt that failed",
            ["cause"],
        )
        self.store_call_seconds = seconds("ret2_store_seconds", "Calls of the vector store", ["operation"])
        self.store_errors = counter("ret2_store_errors", "Calls that the vector store did not answer", ["operation"])
        self.qdrant_collections = gauge(
            "ret2_qdrant_collections", "Collections on the Qdrant server that this process uses, by state", ["state"]
        )
        self.ledger_seconds = seconds("ret2_ledger_seconds", "Calls of the ledger")
        self.ledger_errors = counter("ret2_ledger_errors", "Calls that the ledger's database did not answer")
        self.truncated_documents = counter(
            "ret2_truncated_documents", "Indexed documents of whose text a part has no embedding"
        )
        self.rejected_documents = counter("ret2_rejected_documents", "Posted documents not accepted", ["code"])

    def watch_queue(self, queued_cost: Callable[[Lane], int]) -> None:
        for lane in Lane:
            self.queue_cost.labels(lane).set_function(partial(queued_cost, lane))

    def watch_runtime(self, model: str, state: Callable[[], DeviceState]) -> None:
        self._runtimes.states[model] = state

    def batch(self, model: str, lane: Lane, inputs: int, cost: int, budget: int, forward_s: float) -> None:
        self.batch_inputs.labels(model, lane).observe(inputs)
        self.batch_cost.labels(model, lane).observe(cost)
        self.batch_fill_ratio.labels(model, lane).observe(cost / budget)
        self.forward_seconds.labels(model, lane).observe(forward_s)

    def see_models(self, models: Sequence[ServedModel]) -> None:
        """Replace what was known of the models: after a change nothing of the last is left."""
        self.models.clear()
        for model in models:
            info = model.info
            facts = (info.fingerprint, str(info.dimensions)) if info else ("", "")
            self.models.labels(model.name, *facts, model.state).set(1)

    def see_ledger(self, overview: Overview) -> None:
        self.pending_documents.set(overview.pending_documents)
        self.oldest_pending_seconds.set(overview.oldest_s)
        for state, count in overview.jobs.items():
            self.jobs.labels(state).set(count)

    # --- `indexer.observability.watch.Watch`

    def truncated(self, documents: int) -> None:
        self.truncated_documents.inc(documents)

    def settled(self, result: str, documents: int) -> None:
        self.documents.labels(result).inc(documents)

    def tried_again(self, cause: str) -> None:
        self.batch_retries.labels(cause).inc()

    def called_store(self, operation: str, seconds: float, *, failed: bool) -> None:
        self.store_call_seconds.labels(operation).observe(seconds)
        if failed:
            self.store_errors.labels(operation).inc()

    def called_ledger(self, seconds: float, *, failed: bool) -> None:
        self.ledger_seconds.observe(seconds)
        if failed:
            self.ledger_errors.inc()

    def saw_collections(self, states: Mapping[str, int]) -> None:
        self.qdrant_collections.clear()
        for state, count in states.items():
            self.qdrant_collections.labels(state).set(count)
