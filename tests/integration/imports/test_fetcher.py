"""The fetcher against a real HTTP server on loopback: redirects, rebinding, slow and endless answers, caps."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpcore
import pytest

from indexer.fetcher import Fetcher, FetchSettings
from model.errors import DependencyUnavailable, Forbidden, InvalidInput, TooLarge

PUBLIC = "93.184.216.34"  # looks public to the check; `Rewired` keeps every connection on loopback
OPEN = FetchSettings(max_bytes=100_000, timeout_s=5, max_redirects=2, allow_private=True)
STRICT = replace(OPEN, allow_private=False)


class Rewired(httpcore.AsyncNetworkBackend):
    """Connects to loopback whatever address is asked for, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        return await self._network.connect_tcp("127.0.0.1", port, *args, **kwargs)


class Server:
    """Speaks just enough HTTP to misbehave. `routes` maps a path to what is written."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.routes: dict[str, bytes] = {}
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            path = request.split(" ")[1].partition("?")[0]
            if path == "/slow":
                await self._trickle(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x", 0.05)
            elif path == "/slow-headers":
                await self._trickle(writer, b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.05)
            elif path == "/endless":
                await self._trickle(writer, b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000, 0)
            writer.write(self.routes.get(path, answer(404)))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _trickle(self, writer: asyncio.StreamWriter, head: bytes, piece: bytes, pause_s: float) -> None:
        writer.write(head)
        for _ in range(10_000):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await server.start()
    yield server
    listening.close()


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(OPEN) as fetcher:
        yield fetcher


async def test_bytes_arrive(server: Server, fetcher: Fetcher) -> None:
    server.routes["/cat.png"] = answer(200, b"\x89PNG", Set_Cookie="a=b")
    url = f"http://127.0.0.1:{server.port}/cat.png?sig=1"
    assert await fetcher.fetch(url) == b"\x89PNG"
    assert await fetcher.fetch(url) == b"\x89PNG"
    assert "cookie" not in server.requests[1].lower()
    assert f"host: 127.0.0.1:{server.port}" in server.requests[0].lower()


async def test_environment_proxies_are_not_used(
    server: Server, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server.routes["/a"] = answer(200, b"direct")
    assert await fetcher.fetch(f"http://127.0.0.1:{server.port}/a") == b"direct"


async def test_redirects_are_followed_up_to_the_limit(server: Server, fetcher: Fetcher) -> None:
    server.routes |= {"/1": answer(302, Location="/2"), "/2": answer(307, Location="/3"), "/3": answer(200, b"end")}
    assert await fetcher.fetch(f"http://127.0.0.1:{server.port}/1") == b"end"
    server.routes["/3"] = answer(302, Location="/1")
    with pytest.raises(InvalidInput, match="redirect 3, limit is 2"):
        await fetcher.fetch(f"http://127.0.0.1:{server.port}/1")


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "http://169.254.169.254/", "http://[::1]:{port}/"])
async def test_a_redirect_to_a_private_address_is_forbidden(server: Server, target: str) -> None:
    server.routes["/"] = answer(302, Location=target.format(port=server.port))

    async def resolve(host: str, port: int) -> list[str]:
        return [PUBLIC] if host == "images.example" else [host]

    async with Fetcher(STRICT, resolve=resolve, network=Rewired()) as fetcher:
        with pytest.raises(Forbidden):
            await fetcher.fetch(f"http://images.example:{server.port}/")
    assert len(server.requests) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://user:pw@images.example/", "gopher://images.example/"])
async def test_a_redirect_obeys_the_rules_for_urls(server: Server, fetcher: Fetcher, target: str) -> None:
    server.routes["/"] = answer(302, Location=target)
    with pytest.raises(InvalidInput):
        await fetcher.fetch(f"http://127.0.0.1:{server.port}/")


async def test_a_rebinding_name_gains_nothing(server: Server) -> None:
    """The name is asked for once, and the connection goes to the address that passed, whatever the name says next."""
    server.routes["/"] = answer(200, b"public")
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    network = Rewired()
    async with Fetcher(STRICT, resolve=resolve, network=network) as fetcher:
        assert await fetcher.fetch(f"http://rebind.example:{server.port}/") == b"public"
        assert network.asked == [PUBLIC]
        with pytest.raises(Forbidden):
            await fetcher.fetch(f"http://rebind.example:{server.port}/")
        assert network.asked == [PUBLIC]
    assert f"host: rebind.example:{server.port}" in server.requests[0].lower()


async def test_the_next_address_is_tried_when_one_refuses(server: Server) -> None:
    server.routes["/"] = answer(200, b"second")

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the server listens on the second only

    async with Fetcher(OPEN, resolve=resolve) as fetcher:
        assert await fetcher.fetch(f"http://two.example:{server.port}/") == b"second"


@pytest.mark.parametrize("path", ["/slow", "/slow-headers"])
async def test_a_slow_loris_meets_the_deadline(server: Server, path: str) -> None:
    async with Fetcher(replace(OPEN, timeout_s=0.3)) as fetcher:
        start = asyncio.get_running_loop().time()
        with pytest.raises(DependencyUnavailable, match=r"longer than 0\.3 s"):
            await fetcher.fetch(f"http://127.0.0.1:{server.port}{path}")
        assert asyncio.get_running_loop().time() - start < 2


async def test_a_slow_name_meets_the_deadline() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    async with Fetcher(replace(OPEN, timeout_s=0.2), resolve=resolve) as fetcher:
        with pytest.raises(DependencyUnavailable, match="longer than"):
            await fetcher.fetch("http://slow.example/")


async def test_an_endless_body_is_cut(server: Server, fetcher: Fetcher) -> None:
    with pytest.raises(TooLarge, match="more than 100000 bytes"):
        await fetcher.fetch(f"http://127.0.0.1:{server.port}/endless")


async def test_a_declared_length_over_the_limit_is_refused_before_reading(server: Server, fetcher: Fetcher) -> None:
    server.routes["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"
    with pytest.raises(TooLarge, match="100001 bytes, limit is 100000"):
        await fetcher.fetch(f"http://127.0.0.1:{server.port}/")


async def test_exactly_the_limit_is_allowed(server: Server, fetcher: Fetcher) -> None:
    server.routes["/"] = answer(200, b"x" * 100_000)
    assert len(await fetcher.fetch(f"http://127.0.0.1:{server.port}/")) == 100_000


async def test_what_a_server_compressed_unasked_counts_as_decompressed(server: Server, fetcher: Fetcher) -> None:
    server.routes["/small"] = answer(200, gzip.compress(b"hello"), Content_Encoding="gzip")
    server.routes["/bomb"] = answer(200, gzip.compress(b"x" * 10_000_000), Content_Encoding="gzip")
    server.routes["/broken"] = answer(200, b"not gzip", Content_Encoding="gzip")
    server.routes["/brotli"] = answer(200, b"?", Content_Encoding="br")
    base = f"http://127.0.0.1:{server.port}"
    assert await fetcher.fetch(f"{base}/small") == b"hello"
    with pytest.raises(TooLarge):
        await fetcher.fetch(f"{base}/bomb")
    for path in ("/broken", "/brotli"):
        with pytest.raises(InvalidInput):
            await fetcher.fetch(base + path)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 206, 304])
async def test_an_answer_that_will_not_change(server: Server, fetcher: Fetcher, status: int) -> None:
    server.routes["/"] = answer(status)
    with pytest.raises(InvalidInput, match=f"127.0.0.1 answered {status}"):
        await fetcher.fetch(f"http://127.0.0.1:{server.port}/?sig=secret")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_an_answer_that_may_change(server: Server, fetcher: Fetcher, status: int) -> None:
    server.routes["/"] = answer(status)
    with pytest.raises(DependencyUnavailable, match=str(status)):
        await fetcher.fetch(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize("raw", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])
async def test_what_is_not_http_is_unavailable(server: Server, fetcher: Fetcher, raw: bytes) -> None:
    server.routes["/"] = raw
    with pytest.raises(DependencyUnavailable):
        await fetcher.fetch(f"http://127.0.0.1:{server.port}/")


async def test_nobody_listening_is_unavailable(fetcher: Fetcher) -> None:
    listening = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    with pytest.raises(DependencyUnavailable, match=r"127\.0\.0\.1"):
        await fetcher.fetch(f"http://127.0.0.1:{port}/")


async def test_many_at_once_and_a_bad_one_harms_only_itself(server: Server, fetcher: Fetcher) -> None:
    server.routes["/good"] = answer(200, b"good")
    base = f"http://127.0.0.1:{server.port}"
    urls = [f"{base}/good", f"{base}/missing"] * 50
    results = await asyncio.gather(*map(fetcher.fetch, urls), return_exceptions=True)
    assert results[::2] == [b"good"] * 50
    assert all(isinstance(result, InvalidInput) for result in results[1::2])
