"""`qdrant_rest.py`, the stand-in for a Qdrant server, as a process on loopback that wants a key."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_START_S = 60.0


@dataclass(frozen=True)
class QdrantServer:
    url: str
    api_key: str


@contextmanager
def serving(api_key: str, folder: Path, certificate: Path | None = None) -> Iterator[QdrantServer]:
    """With a certificate, which comes with its key, over TLS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, log = f"http{'s' if certificate else ''}://127.0.0.1:{port}", folder / "qdrant.log"
    with log.open("wb") as file:
        command = [sys.executable, str(Path(__file__).with_name("qdrant_rest.py")), str(port), api_key]
        command += [str(certificate)] if certificate else []
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        _wait(process, port, log)
        yield QdrantServer(url, api_key)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    with serving("test-key-0123456789", tmp_path_factory.mktemp("qdrant")) as server:
        yield server


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the stand-in for Qdrant is not up: {log.read_text()[-2000:]}")
