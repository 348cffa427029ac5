"""The fetcher's decisions before any byte travels: which addresses, which URLs. Nothing here opens a connection."""

import ipaddress
from collections.abc import AsyncIterator
from typing import Any

import httpcore
import pytest

from indexer.fetcher import Fetcher, FetchSettings, is_public
from model.errors import Forbidden, InvalidInput, RetrievalError


class NoNetwork(httpcore.AsyncNetworkBackend):
    """Fails the test if the fetcher tries to connect anywhere."""

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise AssertionError(f"connected to {host}:{port}")


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(FetchSettings(timeout_s=5), network=NoNetwork()) as fetcher:
        yield fetcher


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",  # carrier-grade NAT
        "127.0.0.1",
        "169.254.169.254",  # cloud metadata
        "172.16.0.1",
        "192.0.0.8",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.5",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",  # a mapped address is a spelling trick even where the inside is public
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",  # cloud metadata
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://127.0.0.1:8080/",
        "http://127.1/",
        "http://2130706433/",  # decimal
        "http://0x7f000001/",  # hexadecimal
        "http://0x7f.0x0.0x0.0x1/",
        "http://017700000001/",  # octal
        "http://0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "https://10.0.0.1/",
    ],
)
async def test_a_private_address_is_forbidden_however_it_is_spelt(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(Forbidden, match="not a public one"):
        await fetcher.fetch(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "//example.org/x",
        "file:///etc/passwd",
        "ftp://example.org/x",
        "gopher://example.org/x",
        "data:image/png;base64,AAAA",
        "http:///x",
        "http://user:secret@example.org/",
        "http://example.org:99999/",
        "http://exa\nmple.org/",
        "http://0177.0.0.1/",  # httpx refuses this octal spelling by itself
        f"http://{'a' * 70}.example/",
    ],
)
async def test_a_url_that_will_never_do(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(InvalidInput):
        await fetcher.fetch(url)


async def test_one_private_address_among_public_ones_is_enough() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "10.0.0.1"]

    async with Fetcher(FetchSettings(), resolve=resolve, network=NoNetwork()) as fetcher:
        with pytest.raises(Forbidden, match=r"10\.0\.0\.1"):
            await fetcher.fetch("http://mixed.example/")


async def test_messages_keep_path_and_query_out(fetcher: Fetcher) -> None:
    for url in ("http://127.0.0.1/secret-path?sig=secret", "http://user:secret@example.org/", "ftp://h/secret?secret"):
        with pytest.raises(RetrievalError) as caught:
            await fetcher.fetch(url)
        error = caught.value
        assert error.value in ("127.0.0.1", "example.org", "ftp")
        assert "secret" not in f"{error.detail} {error.value} {error.limit}"
