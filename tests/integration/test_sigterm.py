"""SIGTERM ends a process within its grace time, whatever it is doing."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from needs import needed
from serve_process import Server

needed("torch")

GRACE_S = 4
# A busy machine takes a while to end a process.
LATE_S = 6
HELD = (str(Path(__file__).parents[1] / "support" / "held_encoder.py"),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def start(tmp_path: Path, model: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def go(model: Path = model, **flags: Any) -> Server:
        servers.append(Server(tmp_path, model, grace_s=GRACE_S, **flags))
        return servers[-1]

    yield go
    for server in servers:
        server.end()


def ends_in_time(server: Server) -> int:
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    status = server.process.wait(GRACE_S + LATE_S)
    assert time.monotonic() - began < GRACE_S + LATE_S
    return status


def in_background(call: Callable[[], object]) -> threading.Thread:
    """A call whose end nobody waits for: its server goes away."""

    def quietly() -> None:
        with suppress(httpx.TransportError):
            call()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread


def test_inside_a_line_of_an_import_that_does_not_end(start: Callable[..., Server], tmp_path: Path) -> None:
    """100 GiB of zeros, which take minutes to unpack."""
    file = tmp_path / "zeros.jsonl.zst"
    file.write_bytes(zstandard.compress(bytes(2**26), 1) * 1_600)
    server = start(import_roots=str(tmp_path))
    client = server.ready()
    client.put("/collections/things").raise_for_status()
    job = client.post("/collections/things/imports", json={"uri": str(file)}).json()["job"]["id"]
    deadline = time.monotonic() + 30
    while client.get(f"/jobs/{job}").json()["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    assert ends_in_time(server) == 0


def test_while_a_caller_does_not_read_its_answer(start: Callable[..., Server]) -> None:
    server = start()
    client = server.ready()
    client.put("/collections/things").raise_for_status()
    documents = [{"id": str(number), "text": "red", "metadata": {"m": "x" * 60_000}} for number in range(100)]
    client.post("/collections/things/documents?wait=true", json=documents).raise_for_status()
    body = json.dumps({"collection": "things", "query": {"text": "red"}, "limit": 100}).encode()
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert connection.recv(10) == b"HTTP/1.1 2"
        ends_in_time(server)


def test_in_a_call_of_the_encoder_that_does_not_end(start: Callable[..., Server], tmp_path: Path) -> None:
    """A forward in this process, and the call of an encoder in another one."""
    gate = tmp_path / "gate"
    gate.touch()
    encoder = start(role="encoder", model=gate, program=HELD)
    encoder.ready()
    server = start(encoder_url=encoder.url)
    client = server.ready()
    hold = {"role": "query", "inputs": [{"text": "hold"}]}
    in_background(lambda: client.post("/encode", json=hold))
    deadline = time.monotonic() + 30
    while not gate.with_suffix(".busy").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ends_in_time(server) == 0
    ends_in_time(encoder)
    assert gate.exists()


def test_in_a_search_of_a_store_that_does_not_answer(start: Callable[..., Server]) -> None:
    server = start()
    client = server.ready()
    client.put("/collections/things").raise_for_status()
    client.post("/collections/things/documents?wait=true", json=[{"id": "a", "text": "red"}]).raise_for_status()
    child = store_process(server.process.pid)
    os.kill(child, signal.SIGSTOP)
    search = {"collection": "things", "query": {"text": "red"}}
    in_background(lambda: client.post("/search", json=search))
    time.sleep(0.5)
    ends_in_time(server)
    assert not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes()


def store_process(parent: int) -> int:
    """The child that holds the embedded index."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of_parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if of_parent and b"indexer.store.edge" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("there is no child with the index")
