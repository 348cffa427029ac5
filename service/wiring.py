"""Build the components of a process from its settings. torch is imported only when a model is built."""

from __future__ import annotations

from collections.abc import Iterator
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
from service.components import Parts
from service.encoder.app import EncoderParts
from service.encoder.batcher import Batcher, Runtime
from service.keys import KeyFile
from service.observability.metrics import Metrics
from service.search.room import HitRoom
from service.settings import QueueSettings, Settings

if TYPE_CHECKING:
    from indexer.store.server.store import ServerStore

log = structlog.get_logger(__name__)


def build_encoder(settings: Settings, runtime: Runtime | None = None) -> EncoderParts:
    """Build the parts of an encoder process: the model alone."""
    api_keys = _api_keys(settings)
    metrics = Metrics(_registry())
    return EncoderParts(settings, metrics, _batcher(settings, metrics, runtime), api_keys)


def build(
    settings: Settings,
    runtime: Runtime | None = None,
    next_runtime: Runtime | None = None,
    *,
    encoder: Batcher | HttpEncoder | None = None,
    store: Store | None = None,
) -> Parts:
    """Build the components of one process. By default the index, the ledger in SQLite and the images are under
    `data_dir`, and the model runs in this process; settings put some of them elsewhere. A model, an encoder or a store
    that is passed in is used in place of the one that the settings name."""
    api_keys = _api_keys(settings)
    metrics = Metrics(_registry())
    # Before the model, which takes long to load: a ledger that cannot be used is said at once.
    ledger = _ledger(settings, metrics)
    encoder = encoder or _encoder(settings, metrics, runtime)
    next_encoder = _next_encoder(settings, next_runtime)
    encoders = Encoders(encoder, next_encoder)
    store = store or _store(settings, metrics)
    blobs = Blobs(settings.blobs)
    fetcher = Fetcher(settings.fetch)
    catalog = Catalog(ledger, store, encoders)
    progress = Progress(ledger, settings.indexer.poll_s)
    wakeups, orders = WakeUps(), WakeUps()
    keeper = Keeper(blobs, settings.keep, settings.limits)
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
        keeper=keeper,
        chores=[importer, *_periodic_chores(settings, ledger, store, blobs)],
        watch=metrics,
    )
    reindexer = Reindexer(ledger, store, encoders, settings.indexer, progress, wakeups=wakeups, orders=orders)
    return Parts(
        settings=settings,
        metrics=metrics,
        encoder=encoder,
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
        next_encoder=next_encoder,
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
        return EdgeStore(folder, readable_documents=settings.undeclared_filter_documents, watch=watch)
    # Here, for its client takes most of a second to import, which the embedded index does not need.
    from indexer.store.server.store import ServerStore

    return ServerStore(settings.qdrant(settings.qdrant_url), watch=watch)


def _api_keys(settings: Settings) -> KeyFile | None:
    """Read first: it may refuse, and loading a model takes long."""
    return KeyFile(settings.api_keys_file) if settings.api_keys_file else None


def _encoder(settings: Settings, metrics: Metrics, runtime: Runtime | None) -> Batcher | HttpEncoder:
    if settings.encoder_url:
        return HttpEncoder(settings.encoder_client(settings.encoder_url))
    return _batcher(settings, metrics, runtime)


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
        # In a thread that ends. OpenMP keeps the helpers of every thread that had a forward, and once there are more of
        # them than cores it lets those of the model's thread sleep between operations: a short text then takes half as
        # long again.
        with ThreadPoolExecutor(1) as brief:
            runtime, batch_cost = brief.submit(_load, settings, metrics).result()
    queue = settings.queue(batch_cost)
    return Batcher(runtime, queue, metrics, prepare_threads=settings.prepares, stuck_after_s=settings.stuck_after_s)


def _load(settings: Settings, metrics: Metrics) -> tuple[Runtime, int]:
    """Load the model, and return it and the allowed cost of a batch."""
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


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
