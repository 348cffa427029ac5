"""Fetch a URL without reaching private networks."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

import httpcore
import httpx

from indexer.connections import Connections
from model.errors import DependencyUnavailable, Forbidden, InvalidInput, RetrievalError, TooLarge
from model.settings import setting
from model.types import Limits

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


Resolve = Callable[[str, int], Awaitable[list[str]]]


# RFC 4291 section 2.4: all that IANA has given out for the public Internet.
_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")

_DOCUMENTATION_V6 = ipaddress.IPv6Network("3fff::/20")  # RFC 9637, younger than Python 3.11's own list

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

_SIX_TO_FOUR_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # RFC 7526

_PROTOCOL_ASSIGNMENTS = ipaddress.IPv4Network("192.0.0.0/24")  # RFC 6890; Python before 3.11.10 lists it in part

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_PASSING = frozenset({408, 425, 429})  # 4xx answers that another try may change; every 5xx is one too


# Connections of all fetches together: more hosts than a batch of 64 documents usually names.
_MAX_CONNECTIONS = 32
_STUCK_TIMEOUTS = 2.0

_HEADERS = [("Accept", "image/*,*/*;q=0.5"), ("Accept-Encoding", "identity"), ("User-Agent", "ret2")]


class Fetcher:
    """Gets the bytes behind public http(s) URLs. For one event loop, many tasks at once; its owner calls `aclose`.

    Bounded: bytes (of the body as decompressed), time (of the whole fetch, redirects and DNS included) and redirects.
    """

    def __init__(
        self,
        settings: FetchSettings,
        *,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._settings = settings
        checked = _CheckedBackend(
            resolve or _resolve, network or httpcore.AnyIOBackend(), allow_private=settings.allow_private
        )
        # SSL_CERT_FILE adds a company's own authority.
        context = httpx.create_ssl_context(trust_env=True)
        self._connections = Connections(
            lambda: httpcore.AsyncConnectionPool(ssl_context=context, max_connections=1, network_backend=checked),
            _MAX_CONNECTIONS,
        )

    async def fetch(self, url: str) -> bytes:
        """Return the body behind `url`.

        Raises `Forbidden` (an address that is not public), `TooLarge`, `InvalidInput` (this URL will never work) or
        `DependencyUnavailable` (its host may answer later). Messages name the host, never the path or query, which may
        be secret.
        """
        target = _parse(url)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._follow(target)
        except TimeoutError as error:
            limit = self._settings.timeout_s
            raise DependencyUnavailable(
                f"fetching from {target.host} took longer than {limit:g} s", value=target.host, limit=limit
            ) from error

    async def _follow(self, target: httpx.URL) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            answer = await self._get(target)
            if isinstance(answer, bytes):
                return answer
            target = answer
        limit = self._settings.max_redirects
        raise InvalidInput(f"{target.host} is redirect {limit + 1}, limit is {limit}", value=limit + 1, limit=limit)

    async def _get(self, target: httpx.URL) -> bytes | httpx.URL:
        """Make one request, and return the body or the URL of a redirect."""
        headers = [("Host", target.netloc.decode("ascii")), *_HEADERS]
        try:
            async with (
                self._connections.connection() as connection,
                connection.stream("GET", str(target.copy_with(fragment=None)), headers=headers) as response,
            ):
                redirect = _answer(response, target)
                return redirect or await self._read(response, target.host)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            detail = f"{target.host} cannot be fetched from: {_reason(error)}"
            raise DependencyUnavailable(detail, value=target.host) from error

    async def _read(self, response: httpcore.Response, host: str) -> bytes:
        """Read the decompressed body, and stop once it is over the limit, so that a decompression bomb costs one
        chunk."""
        limit = self._settings.max_bytes
        declared = _header(response, b"content-length")
        if declared.isdigit() and int(declared) > limit:
            raise TooLarge(f"{host} answers with {declared} bytes, limit is {limit}", value=int(declared), limit=limit)
        inflate = _inflater(_header(response, b"content-encoding"), host)
        body = bytearray()
        async for chunk in response.aiter_stream():
            try:
                body += chunk if inflate is None else inflate.decompress(chunk, limit + 1 - len(body))
            except zlib.error as error:
                raise InvalidInput(f"{host} answered with a broken compressed body: {error}") from error
            if len(body) > limit:
                raise TooLarge(f"{host} answers with more than {limit} bytes", limit=limit)
        return bytes(body)

    @property
    def alive(self) -> bool:
        """Whether connections become free: a fetch ends within `timeout_s`, so a full pool that gives none is
        broken."""
        return self._connections.exhausted_s < _STUCK_TIMEOUTS * self._settings.timeout_s

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to public addresses only: it resolves the name itself and connects to what it checked."""

    def __init__(self, resolve: Resolve, network: httpcore.AsyncNetworkBackend, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._network = network
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        if not self._allow_private:
            _refuse_private(host, addresses)
        refused: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                refused = error
        raise refused or httpcore.ConnectError("the name has no address")

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise Forbidden("a URL cannot name a local socket")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public Internet, also inside the IPv6 forms that contain an IPv4
    address.

    For IPv6 this is an allow-list, because what is not global unicast is either local or a wrapper: IPv4-mapped and
    IPv4-compatible addresses are refused, and so are 6to4 (2002::/16) and Teredo (2001::/32). An IPv6-only cluster
    reaches IPv4 hosts through NAT64, so there the IPv4 address inside decides.
    """
    if isinstance(address, ipaddress.IPv4Address):
        odd = address.is_multicast or address in _SIX_TO_FOUR_RELAYS or address in _PROTOCOL_ASSIGNMENTS
        return address.is_global and not odd
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    wrapped = address.sixtofour is not None or address.teredo is not None
    local = address.is_private or address in _DOCUMENTATION_V6
    return address in _GLOBAL_UNICAST_V6 and not wrapped and not local


def _refuse_private(host: str, addresses: list[str]) -> None:
    """Refuse a host if any of its addresses is private, so that the choice among them does not depend on luck."""
    for address in addresses:
        if not is_public(ipaddress.ip_address(address)):
            detail = f"{host} has the address {address}, which is not a public one"
            raise Forbidden(detail, value=host, limit="a public address")


async def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host as the system resolves it, including decimal, hexadecimal and octal spellings of
    IPv4."""
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise DependencyUnavailable(f"the name {host} cannot be resolved now", value=host) from error
        raise InvalidInput(f"the name {host} does not resolve", value=host) from error
    except UnicodeError as error:  # a label over 63 characters, before any DNS
        raise InvalidInput("the host of the URL is not a valid name") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _parse(url: str) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidInput("the URL is not a valid one") from error
    if target.scheme not in ("http", "https"):
        detail = f"the URL has scheme {target.scheme!r:.20}, allowed are http and https"
        raise InvalidInput(detail, value=target.scheme[:20], limit="http, https")
    if not target.host:
        raise InvalidInput("the URL has no host")
    if target.port is not None and not 0 < target.port < 65536:
        detail = f"the URL of {target.host} has port {target.port}, allowed are 1 to 65535"
        raise InvalidInput(detail, value=target.port, limit=65535)
    if target.userinfo:
        raise InvalidInput(f"the URL of {target.host} carries credentials; they are not sent", value=target.host)
    return target


def _answer(response: httpcore.Response, requested: httpx.URL) -> httpx.URL | None:
    """Return the URL of a redirect, or None if the body is the answer."""
    status = response.status
    if status == HTTPStatus.OK:
        return None
    if status in _REDIRECTS and (location := _header(response, b"location")):
        try:
            return _parse(str(requested.join(location)))
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{requested.host} redirects to an address that is not a URL") from error
    kind: type[RetrievalError] = DependencyUnavailable if status in _PASSING or status >= 500 else InvalidInput
    raise kind(f"{requested.host} answered {status}", value=status)


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1").strip() for key, value in response.headers if key.lower() == name), "")


def _inflater(encoding: str, host: str) -> zlib._Decompress | None:
    """Return a decompressor for servers that compress although `identity` was requested."""
    if encoding.lower() in ("", "identity"):
        return None
    if encoding.lower() in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=47)  # 32 + 15: zlib or gzip by their own header
    raise InvalidInput(f"{host} answered with content-encoding {encoding:.20}, allowed are identity, gzip and deflate")


def _reason(error: Exception) -> str:
    return type(error).__name__ if not str(error) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Bounds on fetching a URL (docs/promises.md#promise-11)."""

    max_bytes: int = Limits().max_image_bytes
    timeout_s: float = setting(10.0, "fetch_timeout_s", "fetching one URL, redirects included", gt=0)
    max_redirects: int = setting(3, "fetch_max_redirects", "redirects of one URL", ge=0)
    allow_private: bool = setting(
        False,
        "fetch_allow_private",
        "allow URLs with private and loopback addresses: for tests and closed networks",
    )
