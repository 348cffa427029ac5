"""The server store over TLS, REST and gRPC, against small servers on loopback whose certificates are of an authority made here."""

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from qdrant_client import grpc as wire
from qdrant_client.grpc.collections_service_pb2_grpc import CollectionsServicer, add_CollectionsServicer_to_server
from qdrant_client.grpc.qdrant_pb2_grpc import QdrantServicer, add_QdrantServicer_to_server
from qdrant_server import QdrantServer, serving

from indexer.domain.points import Point
from indexer.filters import Range
from indexer.store.base import SearchWindow
from indexer.store.criteria import Nearest
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import DependencyUnavailable

D = 4
KEY = "test-key-0123456789"


class Authority:
    """A CA; `file` is what trusts it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key, self._name = folder, ec.generate_private_key(ec.SECP256R1()), _named(name)
        self._certificate = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def certificate(self, address: str) -> Path:
        """For a server there, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        file = self._folder / f"{address}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self._signed(_named(address), key, where).public_bytes(serialization.Encoding.PEM)
        )
        return file

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        of_authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(extension, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(of_authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def qdrant(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    with serving(KEY, tmp_path_factory.mktemp("qdrant"), authority.certificate("127.0.0.1")) as server:
        yield server


@pytest.fixture
async def store(
    qdrant: QdrantServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ServerStore]:
    """That trusts the CA, as an operator says it: by the variable that OpenSSL has for it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    opened = ServerStore(ServerStoreSettings(qdrant.url, api_key=KEY, prefer_grpc=False))
    yield opened
    await opened.close()


async def test_a_server_of_a_trusted_authority(store: ServerStore) -> None:
    await store.create("c", D)
    points = store.points("c")
    await points.upsert([Point(f"d{i}", np.eye(D, dtype=np.float32)[i], "text", None, {"i": i}, "") for i in range(D)])
    hits = await points.search(
        Nearest(np.eye(D, dtype=np.float32)[2]), SearchWindow(limit=2, condition=Range("i", gte=2.0))
    )
    assert [hit.document_id for hit in hits] == ["d2", "d3"]
    await store.drop("c")


@pytest.mark.parametrize("trusted", ["another authority", "those of the system"])
async def test_a_server_of_another_authority_is_refused_and_hears_no_key(
    authority: Authority, trusted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted == "another authority":
        monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path, "another").file))
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with listening(authority.certificate("127.0.0.1")) as heard:
        opened = ServerStore(ServerStoreSettings(heard.url, api_key=KEY, prefer_grpc=False))
        with pytest.raises(DependencyUnavailable, match="CERTIFICATE_VERIFY_FAILED") as raised:
            await opened.ping()
        await opened.close()
    assert KEY not in raised.value.detail
    assert heard.plain == b""


async def test_a_server_of_another_name_is_refused(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with listening(authority.certificate("127.0.0.2")) as heard:
        opened = ServerStore(ServerStoreSettings(heard.url, api_key=KEY, prefer_grpc=False))
        with pytest.raises(DependencyUnavailable, match="IP address mismatch"):
            await opened.ping()
        await opened.close()
    assert heard.plain == b""


@pytest.mark.parametrize("prefer_grpc", [False, True])
async def test_an_https_address_is_never_spoken_to_in_the_clear(prefer_grpc: bool) -> None:
    """A server without TLS hears the beginning of a handshake, and no key."""
    with listening(None) as heard:
        settings = ServerStoreSettings(
            heard.url, api_key=KEY, prefer_grpc=prefer_grpc, grpc_port=heard.port, timeout_s=1
        )
        opened = ServerStore(settings)
        with pytest.raises(DependencyUnavailable):
            await opened.ping()
        await opened.close()
    assert heard.raw.startswith(b"\x16\x03")  # a TLS record of a handshake
    assert KEY.encode() not in heard.raw


PING = """
import asyncio, sys
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import DependencyUnavailable

async def ping():
    store = ServerStore(ServerStoreSettings("https://127.0.0.1:1", api_key=sys.argv[2], grpc_port=int(sys.argv[1]), timeout_s=5))
    try:
        await store.ping()
        print("answered")
    except DependencyUnavailable as error:
        print(error.detail)
    await store.close()

asyncio.run(ping())
"""


class Collections(CollectionsServicer, QdrantServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.keys: list[str] = []

    def HealthCheck(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return wire.HealthCheckReply(title="qdrant - vector search engine", version="1.19.0")

    def List(self, _request: Any, context: Any) -> Any:  # noqa: N802
        self.keys += [value for name, value in context.invocation_metadata() if name == "api-key"]
        return wire.ListCollectionsResponse()


@pytest.mark.parametrize("trusted", ["ours", "another"])
def test_grpc_trusts_whom_it_is_told_to(authority: Authority, trusted: str, tmp_path: Path) -> None:
    """In a process of its own, for gRPC reads once whom to trust."""
    certificate = authority.certificate("127.0.0.1").read_bytes()
    server, collections = grpc.server(ThreadPoolExecutor(1)), Collections()
    add_CollectionsServicer_to_server(collections, server)
    add_QdrantServicer_to_server(collections, server)
    credentials = grpc.ssl_server_credentials([(certificate[: certificate.index(b"-----BEGIN CERT")], certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    roots = authority.file if trusted == "ours" else Authority(tmp_path, "another").file
    ran = subprocess.run(
        [sys.executable, "-c", PING, str(port), KEY],
        env={**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    server.stop(None).wait()
    if trusted == "ours":
        assert (ran.stdout, collections.keys) == ("answered\n", [KEY])
    else:
        # It names the server; or only the failed call, when that ends before the connection is known to be of no use.
        assert "cannot be reached" in ran.stdout or "Qdrant failed in ping" in ran.stdout
        assert "CERTIFICATE_VERIFY_FAILED" in ran.stdout + ran.stderr
        assert collections.keys == []
        assert KEY not in ran.stdout


class listening:  # noqa: N801 - used as a function
    """A server on loopback that answers nothing; `raw` is what came over the wire, `plain` what was in it under TLS."""

    def __init__(self, certificate: Path | None) -> None:
        self.raw, self.plain = b"", b""
        self._context = None
        if certificate is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(certificate)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = Thread(target=self._serve)

    def __enter__(self) -> "listening":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    if self._context is None:
                        self.raw += connection.recv(65_536)
                    else:
                        with self._context.wrap_socket(connection, server_side=True) as inner:
                            self.plain += inner.recv(65_536)
                except OSError:  # ssl.SSLError is one
                    continue
