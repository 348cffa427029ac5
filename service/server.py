"""The one place where a process is put together: settings to parts to a running server. torch is imported only when it
is built."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from indexer.ledger.sql.database import Database
from model.errors import Conflict
from service.api.app import create_app
from service.components import Parts
from service.data_lock import only_server_of
from service.encoder.app import EncoderParts, create_encoder_app
from service.environment import unknown_variables
from service.http.application import metrics_application
from service.http.protocol import server_config
from service.observability.logs import configure_logs
from service.observability.tracing import start_traces
from service.settings import ServerRole, Settings, all_settings
from service.wiring import build, build_encoder

log = structlog.get_logger(__name__)
T = TypeVar("T")

_WATCH_S = 0.5  # how soon a dead model thread or worker is noticed


def serve(settings: Settings) -> None:
    """Run until SIGTERM or Ctrl-C, then drain. The exit status is 1 if a part of the process died, so that a supervisor
    restarts it."""
    configure_logs(settings.log_level, settings.log_format)
    start_traces(settings.role)
    for name, similar in unknown_variables(os.environ, all_settings()).items():
        log.warning("unknown setting", variable=name, similar=similar)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _leave)
    for port in (settings.port, settings.metrics_port):
        _check_port(settings.host, port)
    if settings.role is ServerRole.ENCODER:
        encoder_parts = build_encoder(settings)
        ended_well = _in_loop(run(create_encoder_app(encoder_parts), encoder_parts))
    else:
        with only_server_of(settings.data_dir.expanduser()) if settings.keeps_data_here else nullcontext():
            parts = build(settings)
            ended_well = _in_loop(run(create_app(parts), parts))
    if not ended_well:
        raise SystemExit(1)


def _check_port(host: str, port: int | None) -> None:
    """Raise `Conflict` for a port that is not available, before the slow loading of the model."""
    if not port:
        return
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise Conflict(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Stop the other process or set another "
            "RET2_PORT",
            field="port",
            value=port,
        ) from error


def migrate(settings: Settings) -> tuple[int, str]:
    """Migrate the ledger. Return the version of its schema before, 0 for none, and where the ledger is."""
    shared = settings.database_url is not None
    with nullcontext() if shared else only_server_of(settings.data_dir.expanduser()):
        database = Database(settings.ledger_url)
        database.close()
    return database.schema_before, database.name


def _leave(*_: object) -> None:
    """End the process at once while the model is being loaded, since nothing has begun that would have to be finished.

    Without this handler the first process of a container would go on loading, because it has no default for a signal.
    An exception would not do, because a library that reads weights turns it into another one.
    """
    log.info("stopping before the start")
    os._exit(0)


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run in uvloop's event loop, in which a request costs a sixth less than in Python's own.

    All objects that exist by now live until the end, so they are frozen and the garbage collector need not look at them
    again: under load it did so every two to three seconds, and each time all threads stood still for 150 to 190 ms.
    """
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by the signal instead of with status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _give_up() -> None:
    log.critical("shutdown timed out, exiting")
    os._exit(1)


async def run(app: FastAPI, parts: Parts | EncoderParts, *, give_up: Callable[[], object] = _give_up) -> bool:
    """Serve until a signal. Return whether the server ended because it was asked to.

    `give_up` ends the process when the grace time is over.
    """
    settings = parts.settings
    server = _Server(
        server_config(app, settings.host, settings.port, grace_s=settings.requests_s, timeouts=settings.connections)
    )
    deadline = threading.Timer(settings.grace_s, give_up)
    deadline.daemon = True
    watch = asyncio.create_task(_watch(server, parts, deadline))
    ready = asyncio.create_task(_announce(server, settings.host))
    try:
        with _stop_signals(server, parts, deadline):
            async with _metrics_server(parts):
                await server.serve()
    finally:
        died = watch.done()
        watch.cancel()
        ready.cancel()
    return server.started and not died


@asynccontextmanager
async def _metrics_server(parts: Parts | EncoderParts) -> AsyncIterator[None]:
    """Serve the metrics on a port of their own, if there is one, from before the API answers until it has drained."""
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


async def _announce(server: uvicorn.Server, host: str) -> None:
    """Log where the service answers, once it does."""
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    log.info("ready", url=f"http://{name}:{port}/")


@contextmanager
def _stop_signals(server: uvicorn.Server, parts: Parts | EncoderParts, deadline: threading.Timer) -> Iterator[None]:
    """Stop on SIGTERM and Ctrl-C. A thread listens for them, so that the deadline begins however busy the event loop
    is."""
    loop = asyncio.get_running_loop()
    signals, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    former = {signum: signal.signal(signum, _noted) for signum in (signal.SIGTERM, signal.SIGINT)}
    former_wakeup = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        while signum := signals.recv(1):
            if signum[0] in former:
                _arm(deadline)
                loop.call_soon_threadsafe(_stop, server, parts)

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former_wakeup)
        for signum, handler in former.items():
            signal.signal(signum, handler)
        wakeup.close()
        listener.join()
        signals.close()


def _noted(*_: object) -> None:
    """Do nothing: Python has written the signal's number for the thread that listens."""


def _stop(server: uvicorn.Server, parts: Parts | EncoderParts) -> None:
    """Begin to stop; a second signal does not wait."""
    log.info("stopping", grace_s=parts.settings.grace_s)
    server.force_exit = server.should_exit
    _drain(server, parts)


def _drain(server: uvicorn.Server, parts: Parts | EncoderParts) -> None:
    """Turn readiness off, take no new connections, and end when the requests in flight have been answered."""
    server.should_exit = True
    parts.draining.set()


def _arm(deadline: threading.Timer) -> None:
    """Begin the grace time, once. Python would wait for ever for a thread of a pool that is stuck in a forward."""
    with suppress(RuntimeError):  # a second signal, or a part that dies while the process ends
        deadline.start()


async def _watch(server: uvicorn.Server, parts: Parts | EncoderParts, deadline: threading.Timer) -> None:
    """Wait until the model's threads or the worker have died, then stop the process."""
    dead: list[str] = []
    while not dead or server.should_exit:
        await asyncio.sleep(_WATCH_S)
        dead = parts.health.dead() if server.started else []
    log.critical("a part of the service died", parts=dead)
    _arm(deadline)
    _drain(server, parts)
