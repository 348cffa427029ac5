"""The FastAPI application of the service, and the start and stop of what runs behind its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from service import ui
from service.api import aliases, collections, documents, imports, jobs, reading, reindex, search, updates
from service.components import Parts
from service.encoder import compatible
from service.encoder import routes as encode
from service.http.application import application
from service.settings import ServerRole

# In the order in which a path is looked for.
_ROUTERS = (
    search.router,
    encode.packed_router,
    encode.router,
    compatible.router,
    collections.router,
    aliases.router,
    reading.router,
    documents.router,
    updates.router,
    imports.router,
    reindex.router,
    jobs.router,
    ui.router,
)


def create_app(parts: Parts) -> FastAPI:
    """Build the application from ready parts. Its lifespan starts and stops the encoder and the worker.

    An indexer process has the probes only.
    """
    routers = () if parts.settings.role is ServerRole.INDEXER else _ROUTERS
    app = application(parts, parts.api_keys, routers, _lifespan)
    settings = parts.settings
    app.state.parts = parts
    app.state.encoding = encode.Encoding(
        parts.encoders,
        parts.fetcher,
        settings.limits,
        settings.http.max_inputs_per_call,
        settings.http.max_embeddings_per_call,
        settings.request_timeout_s,
    )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start each part after the parts that it needs, and stop them in the reverse order: the worker gives its work back
    before the encoder and the store close."""
    parts: Parts = app.state.parts
    async with AsyncExitStack() as stack:
        stack.callback(parts.ledger.close)
        stack.callback(parts.blobs.close)
        stack.push_async_callback(parts.store.close)
        stack.push_async_callback(parts.fetcher.aclose)
        for host in parts.hosts:
            host.start()
            # Requests and worker are done by then.
            stack.push_async_callback(host.stop, parts.settings.grace_s / 4)
        for part in (parts.worker, parts.reindexer) if parts.indexes else ():
            await part.start()
            stack.push_async_callback(part.stop)
        yield
        parts.draining.set()
