"""The whole application on a loopback port, served by a thread of the test's own process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from service.api.app import create_app
from service.components import Parts
from service.http.protocol import server_config


@contextmanager
def serving(build: Callable[[], Parts]) -> Iterator[str]:
    """The address. `build` is called in the thread, whose event loop the parts then belong to."""
    servers: list[uvicorn.Server] = []

    async def run() -> None:
        parts = build()
        config = server_config(create_app(parts), timeouts=parts.settings.connections)
        servers.append(uvicorn.Server(config))
        await servers[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not (servers and servers[0].started):
            assert thread.is_alive(), "the service did not start"
            assert time.monotonic() < deadline, "the service did not start within 60 s"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{servers[0].servers[0].sockets[0].getsockname()[1]}"
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(30)
    assert not thread.is_alive(), "the service did not stop"
