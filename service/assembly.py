"""The one place where a process is put together: settings to parts to a running server. torch is imported only when it is built."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from indexer.backup.backup import Installation
from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keeper, KeepSettings
from indexer.catalog import Catalog
from indexer.encoding.http_encoder import HttpEncoder
from indexer.encoding.registry import Encoders
from indexer.fetcher import Fetcher
from indexer.imports.importer import Importer
from indexer.imports.planner import Imports
from indexer.intake import Intake
from indexer.ledger.database import Database
from indexer.ledger.ledger import Ledger
from indexer.reindexes import Reindexes
from indexer.store.base import Store
from indexer.store.edge.client import EdgeStore
from indexer.store.instrumented import watched
from indexer.worker.image_sweeper import Sweeper
from indexer.worker.index_deferral import BulkLoads
from indexer.worker.progress import Progress
from indexer.worker.reindexer import Reindexer
from indexer.worker.worker import Chore, Worker
from service.api.app import create_app
from service.app import metrics_application
from service.data_lock import only_server_of
from service.encoder.app import EncoderParts, create_encoder_app
from service.encoder.batcher import Batcher, Runtime
from service.encoder.queue import QueueSettings
from service.keys import KeyFile
from service.logs import configure_logs
from service.parts import Parts
from service.settings import ServerRole, Settings
from service.telemetry import Metrics
from service.tracing import start_traces

if TYPE_CHECKING:
    from indexer.store.server.store import ServerStore

log = structlog.get_logger(__name__)
T = TypeVar("T")

_KEEP_ALIVE_S = (
    75  # longer than proxies keep theirs, or they send a request into a connection that is just being closed
)
_WATCH_S = 0.5  # how soon a dead model thread or worker is noticed


def serve(settings: Settings) -> None:
    """Runs until SIGTERM or Ctrl-C, then drains. Exit status 1 when something inside died, so that a supervisor restarts it."""
    configure_logs(settings.log_level)
    start_traces(settings.role)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _leave)
    if settings.role is ServerRole.ENCODER:
        encoder_parts = build_encoder(settings)
        ended_well = _in_loop(run(create_encoder_app(encoder_parts), encoder_parts))
    else:
        with only_server_of(settings.data_dir.expanduser()) if settings.keeps_data_here else nullcontext():
            parts = build(settings)
            ended_well = _in_loop(run(create_app(parts), parts))
    if not ended_well:
        raise SystemExit(1)


def migrate(settings: Settings, to: int) -> tuple[int, str]:
    """The schema's version before, and where the ledger is."""
    shared = settings.database_url is not None
    with nullcontext() if shared else only_server_of(settings.data_dir.expanduser()):
        database = Database(settings.ledger_url, schema=to)
        database.close()
    return database.schema_before, database.name


def _leave(*_: object) -> None:
    """While the model is being loaded nothing is begun that would have to be finished. Without this a container's first process
    would go on loading: it has no default for a signal. An exception would not do: a library that reads weights made another of it."""
    log.info("stopping before the start")
    os._exit(0)


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    """In uvloop's event loop, where a request costs a sixth less than in Python's own.

    All there is by now is there to the end, and the collector need not look at it again and again: it did so every two to three seconds
    under load, and each time all threads stood still for 150 to 190 ms."""
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def build_encoder(settings: Settings, runtime: Runtime | None = None) -> EncoderParts:
    """The model by itself."""
    api_keys = _api_keys(settings)
    metrics = Metrics(_registry())
    return EncoderParts(settings, metrics, _batcher(settings, metrics, runtime), api_keys)


def build(settings: Settings, runtime: Runtime | None = None, next_runtime: Runtime | None = None) -> Parts:
    """Everything in one process: index, SQLite and image files under `data_dir`, and the model. Or some of it is elsewhere: the role
    api has no worker, the role indexer little else."""
    api_keys = _api_keys(settings)
    metrics = Metrics(_registry())
    encoder = (
        HttpEncoder(settings.encoder_client(settings.encoder_url))
        if settings.encoder_url
        else _batcher(settings, metrics, runtime)
    )
    next_encoder = _next_encoder(settings, next_runtime)
    encoders = Encoders(encoder, next_encoder)
    ledger = _ledger(settings, metrics)
    opened = _store(settings)
    store = watched(opened, metrics)
    blobs = Blobs(settings.blobs)
    fetcher = Fetcher(settings.fetch)
    catalog = Catalog(ledger, store, encoders)
    progress = Progress(ledger, settings.indexer.poll_s)
    keeper = Keeper(blobs, KeepSettings(settings.keep_images, settings.thumbnail_px), settings.limits)
    imports = Imports(settings.imports)
    importer = Importer(
        ledger, blobs, imports, settings.indexer, readers=settings.import_readers, on_read=lambda: worker.poke()
    )
    chores: list[Chore] = [importer]
    if settings.sweep_every_s:
        chores.append(Sweeper(ledger, store, blobs, settings.sweep_every_s))
    if settings.qdrant_url is not None:
        server = cast("ServerStore", watched(opened, metrics))
        chores.append(BulkLoads(ledger, server, settings.qdrant_defer_indexing_documents))
    worker = Worker(
        ledger, store, encoders, blobs, fetcher, settings.indexer, progress, keeper=keeper, chores=chores, watch=metrics
    )
    reindexer = Reindexer(ledger, store, encoders, settings.indexer, progress, on_planned=worker.poke)
    return Parts(
        settings=settings,
        metrics=metrics,
        encoder=encoder,
        store=store,
        ledger=ledger,
        blobs=blobs,
        fetcher=fetcher,
        catalog=catalog,
        intake=Intake(ledger, blobs, settings.indexer, on_accepted=worker.poke),
        worker=worker,
        imports=imports,
        progress=progress,
        reindexes=Reindexes(ledger, catalog, encoders, on_ordered=reindexer.poke),
        reindexer=reindexer,
        next_encoder=next_encoder,
        api_keys=api_keys,
    )


def _ledger(settings: Settings, metrics: Metrics) -> Ledger:
    """Brings its schema up to date. Raises `DependencyUnavailable` when the database does not answer."""
    if settings.database_url is not None:
        return Ledger(settings.ledger_url, watch=metrics)
    settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True)
    # `only_server_of` sees to it that nobody else has this file open.
    return Ledger(settings.ledger_url, exclusive=True, watch=metrics)


def stored(settings: Settings) -> Installation:
    """What outlives a process, by itself."""
    settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True)
    return Installation(Ledger(settings.ledger_url), _store(settings), Blobs(settings.blobs))


def _store(settings: Settings) -> Store:
    """Connects to nothing yet."""
    if settings.qdrant_url is None:
        return EdgeStore(settings.data_dir.expanduser() / "index")
    # Here, for its client takes most of a second to import, which the embedded index does not need.
    from indexer.store.server.store import ServerStore

    return ServerStore(settings.qdrant(settings.qdrant_url))


def _api_keys(settings: Settings) -> KeyFile | None:
    """Read first: it may refuse, and loading a model takes long."""
    return KeyFile(settings.api_keys_file) if settings.api_keys_file else None


def _next_encoder(settings: Settings, runtime: Runtime | None) -> Batcher | HttpEncoder | None:
    """What its batches cost is not among the metrics of this process, which are those of the first."""
    if settings.next_encoder_url:
        return HttpEncoder(settings.encoder_client(settings.next_encoder_url))
    if settings.next_model is None:
        return None
    second = settings.model_copy(update={"model": settings.next_model})
    return _batcher(second, Metrics(CollectorRegistry()), runtime)


def _batcher(settings: Settings, metrics: Metrics, runtime: Runtime | None) -> Batcher:
    batch_cost = QueueSettings().max_batch_cost
    if runtime is None:
        # In a thread that ends. OpenMP keeps the helpers of every thread that had a forward, and once there are more of them than cores
        # it lets those of the model's thread sleep between operations: a short text then takes half as long again.
        with ThreadPoolExecutor(1) as brief:
            runtime, batch_cost = brief.submit(_load, settings, metrics).result()
    queue = settings.queue(batch_cost)
    return Batcher(runtime, queue, metrics, prepare_threads=settings.prepares, stuck_after_s=settings.stuck_after_s)


def _load(settings: Settings, metrics: Metrics) -> tuple[Runtime, int]:
    """The model, and what a batch of it may cost."""
    # Here, so that whatever imports this module without building a model starts without torch.
    from service.encoder.runtime import TorchRuntime

    log.info("loading the model", model=settings.model)
    runtime = TorchRuntime.load(
        settings.model,
        device=settings.device,
        precision=settings.precision,
        compiled=settings.compile,
        threads=settings.threads,
        limits=settings.limits,
    )
    metrics.watch_device(runtime.state)
    return runtime, settings.max_batch_cost or runtime.best_batch_cost()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by the signal instead of with status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(app: FastAPI, parts: Parts | EncoderParts) -> bool:
    """Whether the server ended because it was asked to."""
    settings = parts.settings
    server = _server(app, settings.host, settings.port, settings.requests_s)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _stop, server, parts)
    watch = asyncio.create_task(_watch(server, parts))
    try:
        async with _metrics_server(parts):
            await server.serve()
    finally:
        died = watch.done()
        watch.cancel()
    return server.started and not died


def _server(app: FastAPI, host: str, port: int, grace_s: int) -> _Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace_s,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    return _Server(config)


@asynccontextmanager
async def _metrics_server(parts: Parts | EncoderParts) -> AsyncIterator[None]:
    """Where the metrics have a port of their own: it answers before the API does, and until that has drained."""
    if parts.settings.metrics_port is None:
        yield
        return
    server = _server(metrics_application(parts), parts.settings.host, parts.settings.metrics_port, 1)
    serving = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _stop(server: uvicorn.Server, parts: Parts | EncoderParts) -> None:
    """A second signal does not wait."""
    log.info("stopping", grace_s=parts.settings.grace_s)
    server.force_exit = server.should_exit
    _drain(server, parts)


def _drain(server: uvicorn.Server, parts: Parts | EncoderParts) -> None:
    """Readiness off, no new connections, and an end when those there are have been answered. Whatever hangs is left behind when the
    grace time is over: Python would wait for ever for a thread of a pool that is stuck in a forward."""
    server.should_exit = True
    parts.draining.set()
    deadline = threading.Timer(parts.settings.grace_s, _give_up)
    deadline.daemon = True
    deadline.start()


def _give_up() -> None:
    log.critical("grace time is over, leaving without an end")
    os._exit(1)


async def _watch(server: uvicorn.Server, parts: Parts | EncoderParts) -> None:
    """Ends when the model's threads or the worker died, and takes the process down with it (promise 1)."""
    dead: list[str] = []
    while not dead or server.should_exit:
        await asyncio.sleep(_WATCH_S)
        dead = parts.health.dead() if server.started else []
    log.critical("a part of the service died", parts=dead)
    _drain(server, parts)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
