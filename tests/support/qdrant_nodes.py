"""Real Qdrant nodes on loopback, which a test can kill, stop, cut off and start again.

RET2_TEST_QDRANT_BINARY names the program. Node n listens on 127.0.0.n, so that all have the same ports, as the nodes of
a cluster have. Its peers reach it through a gate, which can be shut.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_process import free_port

_START_S = 60.0
_CALM_S = 90.0


class Gate:
    """A TCP proxy before `address`. While it is shut, nothing comes through and nobody is told."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._open = threading.Event()
        self._open.set()
        # A node that is brought back downloads from the host of this address, and a port of the others.
        self._listener = socket.create_server((address[0], 0))
        self.url = f"http://{address[0]}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self._open.clear()

    def reopen(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(connection,), daemon=True).start()

    def _join(self, connection: socket.socket) -> None:
        self._open.wait()
        try:
            onward = socket.create_connection(self._address)
        except OSError:
            connection.close()
            return
        for ends in ((connection, onward), (onward, connection)):
            threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._open.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Node:
    """One Qdrant process and its folder, which stays when the process ends."""

    def __init__(self, folder: Path, host: str, ports: tuple[int, int, int], environment: dict[str, str]) -> None:
        self._folder, self.host, self.ports, self._environment = folder, host, ports, environment
        self._process: subprocess.Popen[bytes] | None = None
        self.gate: Gate | None = None
        self.bootstrap: str | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.ports[0]}"

    @property
    def grpc_port(self) -> int:
        return self.ports[1]

    @property
    def storage(self) -> Path:
        return self._folder / "storage"

    def join(self, bootstrap: str | None) -> None:
        """Make this a node of a cluster: its first, or one that asks the node at `bootstrap`."""
        self.gate, self.bootstrap = Gate((self.host, self.ports[2])), bootstrap

    def start(self) -> None:
        program = os.environ["RET2_TEST_QDRANT_BINARY"]
        settings = {
            "SERVICE__HOST": self.host,
            "SERVICE__HTTP_PORT": self.ports[0],
            "SERVICE__GRPC_PORT": self.ports[1],
            "STORAGE__STORAGE_PATH": self.storage,
            "STORAGE__SNAPSHOTS_PATH": self._folder / "snapshots",
            "TELEMETRY_DISABLED": "true",
            "LOG_LEVEL": "WARN",
        }
        command = [program, "--disable-telemetry"]
        if self.gate is not None:
            settings |= {"CLUSTER__ENABLED": "true", "CLUSTER__P2P__PORT": self.ports[2]}
            command += ["--uri", self.gate.url]
            command += ["--bootstrap", self.bootstrap] if self.bootstrap else []
        environment = {f"QDRANT__{name}": str(value) for name, value in settings.items()}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=os.environ | environment | self._environment, stdout=log, stderr=log
            )

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.get("/readyz").status_code == 200, _START_S, f"{self.url} is not ready: {self.log()}")

    def kill(self) -> None:
        """End the process as by a power cut of its machine."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End the process as its operator does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def cut_off(self) -> None:
        """Let no other node reach this one, which still answers callers."""
        assert self.gate is not None
        self.gate.shut()

    def reconnect(self) -> None:
        assert self.gate is not None
        self.gate.reopen()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, trust_env=False)

    def log(self) -> str:
        return (self._folder / "log").read_text()[-3000:]

    def end(self) -> None:
        self.kill()
        if self.gate is not None:
            self.gate.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Cluster:
    """Nodes that share collections."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def urls(self) -> str:
        return ",".join(node.url for node in self.nodes)

    @property
    def grpc_port(self) -> int:
        return self.nodes[0].grpc_port

    def wait_until_calm(self) -> None:
        """Wait until every node sees every copy of every shard active, and nothing is being copied."""
        for node in self.nodes:
            node.wait_until_ready()
        wait_until(self._is_calm, _CALM_S, "the copies do not come back")

    def _is_calm(self) -> bool:
        for node in self.nodes:
            consensus = node.get("/cluster").json()["result"]
            if len(consensus["peers"]) != len(self.nodes) or consensus["raft_info"]["pending_operations"]:
                return False
            for name in [entry["name"] for entry in node.get("/collections").json()["result"]["collections"]]:
                shards = node.get(f"/collections/{name}/cluster").json()["result"]
                states = [shard["state"] for kind in ("local_shards", "remote_shards") for shard in shards[kind]]
                if set(states) - {"Active"} or shards["shard_transfers"]:
                    return False
        return True


def wait_until(true: Callable[[], bool], most_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError, KeyError, TypeError):
            if true():
                return
        time.sleep(0.2)
    pytest.fail(otherwise)


def _require_binary() -> None:
    if not os.environ.get("RET2_TEST_QDRANT_BINARY"):
        pytest.skip("needs the path of a Qdrant server: RET2_TEST_QDRANT_BINARY is not set")


@contextmanager
def one_node(folder: Path, **environment: str) -> Iterator[Node]:
    """Start one node with further `QDRANT__` variables."""
    _require_binary()
    node = Node(folder, "127.0.0.1", (free_port(), free_port(), free_port()), environment)
    try:
        node.start()
        node.wait_until_ready()
        yield node
    finally:
        node.end()


@contextmanager
def three_nodes(folder: Path, **environment: Any) -> Iterator[Cluster]:
    _require_binary()
    ports = (free_port(), free_port(), free_port())
    nodes = [Node(folder / f"node{n}", f"127.0.0.{n}", ports, environment) for n in (1, 2, 3)]
    cluster = Cluster(nodes)
    try:
        for node in nodes:
            first = nodes[0].gate
            node.join(first.url if first else None)
            node.start()
            node.wait_until_ready()
        cluster.wait_until_calm()
        yield cluster
    finally:
        for node in nodes:
            node.end()
