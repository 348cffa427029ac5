"""Build the components of a process from its settings. torch is imported only when a model is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from indexer.backup.backup import Installation
from indexer.blobs.image_store import Blobs
from indexer.blobs.thumbnails import Keeper, Thumbnails
from indexer.catalog import Catalog
from indexer.encoding.http_encoder import HttpEncoder
from indexer.encoding.registry import Encoders
from indexer.fetcher import Fetcher
from indexer.imports.importer import Importer
from indexer.imports.planner import Imports
from indexer.intake import Intake
from indexer.ledger.ledger import Ledger
from indexer.loops import WakeUps
from indexer.observability.watch import NOBODY, Watch
from indexer.reindexes import Reindexes
from indexer.store.base import Store
from indexer.store.edge.client import EdgeStore
from indexer.worker.image_sweeper import Sweeper
from indexer.worker.index_deferral import BulkLoads
from indexer.worker.progress import Progress
from indexer.worker.reindexer import Reindexer
from indexer.worker.worker import Chore, Worker
from model.cpu.priority import yield_to_others
from service.components import Parts
from service.encoder.app import EncoderParts
from service.encoder.batcher import Batcher
from service.encoder.budget import Budget
from service.encoder.hosts import Host
from service.encoder.loaded import Runtime
from service.encoder.models import LocalModels
from service.encoder.sources import ModelSource, read_sources
from service.keys import KeyFile
from service.observability.metrics import Metrics
from service.search.room import HitRoom
from service.settings import QueueSettings, Settings

if TYPE_CHECKING:
    from indexer.store.server.store import ServerStore

log = structlog.get_logger(__name__)


def build_encoder(settings: Settings, *runtimes: Runtime) -> EncoderParts:
    """Build the parts of an encoder process: the models alone."""
    api_keys = _api_keys(settings)
    metrics = Metrics(_registry())
    return EncoderParts(settings, metrics, _local_models(settings, metrics, runtimes), api_keys)


def build(
    settings: Settings,
    *runtimes: Runtime,
    hosts: Sequence[Host] = (),
    store: Store | None = None,
) -> Parts:
    """Build the components of one process. By default the index, the ledger in SQLite and the images are under
    `data_dir`, and the models run in this process; settings put some of them elsewhere. Loaded models, hosts of models
    or a store that are passed in are used in place of those that the settings name."""
    api_keys = _api_keys(settings)
    metrics = Metrics(_registry())
    # Before the models, which take long to load: a ledger that cannot be used is said at once.
    ledger = _ledger(settings, metrics)
    hosts = hosts or _hosts(settings, metrics, runtimes)
    encoders = Encoders(tuple(hosts))
    store = store or _store(settings, metrics)
    blobs = Blobs(settings.blobs)
    fetcher = Fetcher(settings.fetch)
    catalog = Catalog(ledger, store, encoders)
    progress = Progress(ledger, settings.indexer.poll_s)
    wakeups, orders = WakeUps(), WakeUps()
    imports = Imports(settings.imports)
    importer = Importer(ledger, blobs, imports, settings.indexer, readers=settings.import_readers, wakeups=wakeups)
    worker = Worker(
        ledger,
        store,
        encoders,
        blobs,
        fetcher,
        settings.indexer,
        progress,
        wakeups=wakeups,
        keeper=Keeper(blobs, settings.keep, settings.limits),
        bounds=settings.document_bounds,
        chores=[importer, *_periodic_chores(settings, ledger, store, blobs)],
        watch=metrics,
    )
    reindexer = Reindexer(ledger, store, encoders, settings.indexer, progress, wakeups=wakeups, orders=orders)
    return Parts(
        settings=settings,
        metrics=metrics,
        hosts=tuple(hosts),
        encoders=encoders,
        store=store,
        ledger=ledger,
        blobs=blobs,
        thumbnails=Thumbnails(blobs, settings.limits),
        fetcher=fetcher,
        catalog=catalog,
        intake=Intake(ledger, blobs, settings.indexer, wakeups=wakeups),
        worker=worker,
        wakeups=wakeups,
        imports=imports,
        progress=progress,
        reindexes=Reindexes(ledger, catalog, encoders, orders=orders),
        reindexer=reindexer,
        hit_room=HitRoom(settings.search.held_hits),
        api_keys=api_keys,
    )


def _periodic_chores(settings: Settings, ledger: Ledger, store: Store, blobs: Blobs) -> Iterator[Chore]:
    if settings.sweep_every_s:
        yield Sweeper(ledger, store, blobs, settings.sweep_every_s)
    if settings.qdrant_url is not None:
        yield BulkLoads(ledger, cast("ServerStore", store), settings.qdrant_defer_indexing_documents)


def _ledger(settings: Settings, metrics: Metrics) -> Ledger:
    """Open the ledger and migrate its schema. Raises `DependencyUnavailable` if the database does not answer."""
    if settings.database_url is not None:
        return Ledger.open(settings.ledger_url, watch=metrics)
    settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True)
    # `only_server_of` sees to it that nobody else has this file open.
    return Ledger.open(settings.ledger_url, exclusive=True, watch=metrics)


def stored(settings: Settings) -> Installation:
    """Open what outlives a process: ledger, store and images."""
    settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True)
    return Installation(Ledger.open(settings.ledger_url), _store(settings), Blobs(settings.blobs))


def _store(settings: Settings, watch: Watch = NOBODY) -> Store:
    """Make the store; it connects at its first call."""
    if settings.qdrant_url is None:
        folder = settings.data_dir.expanduser() / "index"
        return EdgeStore(
            folder, readable_documents=settings.undeclared_filter_documents, settings=settings.edge, watch=watch
        )
    # Here, for its client takes most of a second to import, which the embedded index does not need.
    from indexer.store.server.store import ServerStore

    return ServerStore(settings.qdrant(settings.qdrant_url), watch=watch)


def _api_keys(settings: Settings) -> KeyFile | None:
    """Read first: it may refuse, and loading a model takes long."""
    return KeyFile(settings.api_keys_file) if settings.api_keys_file else None


def _hosts(settings: Settings, metrics: Metrics, runtimes: Sequence[Runtime]) -> Sequence[Host]:
    if settings.encoder_urls:
        return [HttpEncoder(settings.encoder_client(url)) for url in settings.encoder_urls]
    return [_local_models(settings, metrics, runtimes)]


def _local_models(settings: Settings, metrics: Metrics, runtimes: Sequence[Runtime]) -> LocalModels:
    def serve(runtime: Runtime, budget: Budget) -> Batcher:
        return Batcher(
            runtime,
            settings.queue(budget.cost),
            metrics,
            budget=budget,
            prepare_threads=settings.prepares,
            stuck_after_s=settings.stuck_after_s,
        )

    if runtimes:
        budgets = [Budget(QueueSettings().max_batch_cost, fixed=True) for _ in runtimes]
        batcher = serve(runtimes[0], budgets[0])
        return LocalModels.of(batcher, *(map(batcher.add, runtimes[1:], budgets[1:])))
    # In a thread of low priority, which the threads of OpenVINO that it starts inherit.
    with ThreadPoolExecutor(1, initializer=yield_to_others) as brief:
        return brief.submit(_load_models, settings, metrics, serve).result()


def _load_models(settings: Settings, metrics: Metrics, serve: Callable[[Runtime, Budget], Batcher]) -> LocalModels:
    # Here, so that whatever imports this module without building a model starts without torch.
    from service.encoder.runtime import LocalRuntime, ModelDevice

    sources = read_sources(settings.models)
    device = ModelDevice.open(settings.device, settings.precision, settings.threads, settings.cache_dir)

    def load(model: ModelSource) -> tuple[Runtime, Budget]:
        log.info("loading the model", model=model.name, source=model.source)
        runtime = LocalRuntime.load(
            model.source,
            device,
            settings.limits,
            name=model.name,
            compiled=settings.compile,
            shared=len(sources) > 1,
        )
        metrics.watch_runtime(model.name, runtime.state)
        return runtime, runtime.budget(settings.max_batch_cost)

    # Compiling holds up whatever else is computed.
    return LocalModels.load(sources, load, serve, all_before_start=settings.compile)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
