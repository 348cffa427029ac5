"""How qdrant-client is set up: transports, time-outs, keys and certificates."""

from __future__ import annotations

import logging
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from indexer.connections import BoundedTransport
from indexer.store.server.addresses import Address, Addresses
from indexer.store.server.client import Client
from indexer.store.server.settings import ServerStoreSettings
from model.errors import DependencyUnavailable

log = logging.getLogger(__name__)

_GRPC_OPTIONS = {
    # A connection that a firewall or a node took along silently is given up within 15 s; without these only TCP itself
    # does so, after a quarter of an hour in which every call times out. gRPC 1.85 waits for the answer to a ping for
    # `ping_timeout_ms`, a minute by itself, whatever `keepalive_timeout_ms` says.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    # A server that was away for long is tried again within 5 s; gRPC's own back-off grows to two minutes.
    "grpc.initial_reconnect_backoff_ms": 500,
    "grpc.max_reconnect_backoff_ms": 5_000,
    # Else equal channels share one connection, so that one node of a cluster behind a balancer has all the work.
    "grpc.use_local_subchannel_pool": 1,
}
_READ_CHANNELS = 3


def reach(settings: ServerStoreSettings) -> Addresses:
    """Make the clients of every address. Opens no connection yet."""
    return Addresses([_address(settings, url) for url in settings.urls])


def connect(settings: ServerStoreSettings, timeout_s: int | None = None, channels: int = 1) -> Client:
    """Make the client of one address. `:memory:` is the client's own small engine, for tests."""
    # REST calls only: callers must not queue inside httpx, which loses connections when they are cancelled.
    options: dict[str, Any] = {"transport": BoundedTransport(settings.connections, _transports(settings))}
    if settings.url.startswith("http"):
        # By REST a server writes a compressed answer in pieces, the second of which waits 40 ms for the first to be
        # acknowledged.
        options |= {"pool_size": channels, "metadata": {"Accept-Encoding": "identity"}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        warnings.filterwarnings("ignore", message="Auth token provider is used with an insecure connection")
        return Client(
            **options,
            location=settings.url,
            api_key=settings.api_key,
            auth_token_provider=_key_reader(settings.api_key_file) if settings.api_key_file else None,
            prefer_grpc=settings.prefer_grpc,
            grpc_port=settings.grpc_port,
            grpc_options=_GRPC_OPTIONS | _grpc_certificate(settings),
            timeout=timeout_s or settings.timeout_s,
            check_compatibility=False,  # it would ask over REST, from a thread, while this is made
        )


def _address(settings: ServerStoreSettings, url: str) -> Address:
    if (settings.api_key or settings.api_key_file) and url.startswith("http:"):
        log.warning("the Qdrant API key goes over an unencrypted connection", extra={"url": url})
    here = settings.at(url)
    if not url.startswith("http"):
        # Each client would have an engine of its own.
        only = connect(here)
        return Address(url, only, only, only)
    return Address(
        url,
        reads=connect(here, channels=_READ_CHANNELS),
        writes=connect(here, settings.write_timeout_s),
        definitions=connect(here, settings.definition_timeout_s),
    )


def _key_reader(file: Path) -> Callable[[], str]:
    """Return a function that reads the key again when its file changes. It raises `DependencyUnavailable`."""
    read: tuple[int, str] = (0, "")

    def key() -> str:
        nonlocal read
        try:
            changed = file.stat().st_mtime_ns
            if changed != read[0]:
                read = (changed, file.read_text().strip())
        except (OSError, UnicodeDecodeError) as error:
            raise DependencyUnavailable(f"the key of the Qdrant server cannot be read from {file}: {error}") from error
        return read[1]

    return key


def _grpc_certificate(settings: ServerStoreSettings) -> dict[str, Any]:
    if settings.client_certificate is None:
        return {}
    key = settings.client_key or settings.client_certificate
    return {"certificate_chain": settings.client_certificate.read_bytes(), "private_key": key.read_bytes()}


def _transports(settings: ServerStoreSettings) -> Callable[[], httpx.AsyncBaseTransport] | None:
    """Return how REST connections are made that show a certificate; None where there is none."""
    if settings.client_certificate is None:
        return None
    context: ssl.SSLContext = httpx.create_ssl_context(trust_env=True)
    context.load_cert_chain(settings.client_certificate, settings.client_key)
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    return lambda: httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)
