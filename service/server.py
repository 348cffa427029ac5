"""The one place where a process is put together: settings to parts to a running server. torch is imported only when it is built."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeVar

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from indexer.ledger.database import Database
from service.api.app import create_app
from service.components import Parts
from service.data_lock import only_server_of
from service.encoder.app import EncoderParts, create_encoder_app
from service.http.application import metrics_application
from service.http.protocol import server_config
from service.observability.logs import configure_logs
from service.observability.tracing import start_traces
from service.settings import ServerRole, Settings
from service.wiring import build, build_encoder

log = structlog.get_logger(__name__)
T = TypeVar("T")

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


def migrate(settings: Settings) -> tuple[int, str]:
    """Migrate the ledger. Return the version of its schema before, 0 for none, and where the ledger is."""
    shared = settings.database_url is not None
    with nullcontext() if shared else only_server_of(settings.data_dir.expanduser()):
        database = Database(settings.ledger_url)
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


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by the signal instead of with status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(app: FastAPI, parts: Parts | EncoderParts) -> bool:
    """Whether the server ended because it was asked to."""
    settings = parts.settings
    server = _Server(
        server_config(app, settings.host, settings.port, grace_s=settings.requests_s, timeouts=settings.connections)
    )
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


@asynccontextmanager
async def _metrics_server(parts: Parts | EncoderParts) -> AsyncIterator[None]:
    """Where the metrics have a port of their own: it answers before the API does, and until that has drained."""
    if parts.settings.metrics_port is None:
        yield
        return
    settings = parts.settings
    config = server_config(
        metrics_application(parts), settings.host, parts.settings.metrics_port, timeouts=settings.connections
    )
    server = _Server(config)
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
