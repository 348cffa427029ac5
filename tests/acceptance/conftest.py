"""Real processes: `ret2 serve` with the bundled model on a free port, over a folder that outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from chat_endpoint import chat_endpoint, reader
from example_files import load_example
from needs import needed
from tiny_model import write_tiny_checkpoint

from service.client.client import Client

_START_S = 240.0  # torch and a model, on a machine that may be busy with other things


class Process:
    """One `ret2 serve`; started again it finds its data and its address as they were.

    It serves atlas, on whose flags and emoji most tests ask; `model` None serves what `ret2 serve` does by itself.
    """

    model: str | None = "bundled:atlas"

    def __init__(self, folder: Path, *flags: str, name: str = "serve", environment: Mapping[str, str] = {}) -> None:
        self.data_dir = folder / "data"
        self.log = folder / f"{name}.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.flags = list(flags)
        self._environment = dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    def spawn(self) -> subprocess.Popen[bytes]:
        """Started, not yet ready."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RET2_")}
        environment |= {} if self.model is None else {"RET2_MODELS": self.model}
        command = [sys.executable, "-m", "service", "serve", f"--port={self.port}", f"--data-dir={self.data_dir}"]
        command += self.flags
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment | self._environment,
            )
        return self._child

    def start(self) -> Client:
        child = self.spawn()
        client = Client(self.url)
        self._clients.append(client)
        deadline = time.monotonic() + _START_S
        while not client.ready():
            assert child.poll() is None, f"ended with {child.returncode}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not ready after {_START_S:g} s: {self._readiness()}\n{self.tail()}"
            time.sleep(0.05)
        return client

    def send(self, number: signal.Signals) -> int:
        """The exit status after a signal."""
        assert self._child is not None
        self._child.send_signal(number)
        return self._child.wait(60)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def _readiness(self) -> str:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).text
        except httpx.HTTPError as error:
            return repr(error)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def end(self) -> None:
        for client in self._clients:
            client.close()
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    process.end()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Any number of them, each with flags, a name and an environment of its own, in a folder that they share if they name no other."""
    made: list[Process] = []

    def make(*flags: str, folder: Path = tmp_path, **options: Any) -> Process:
        made.append(Process(folder, *flags, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    """As `process`, for all tests of a module, and each in a folder of its own: what they share is elsewhere."""
    made: list[Process] = []

    def make(*flags: str, name: str, **options: Any) -> Process:
        made.append(Process(tmp_path_factory.mktemp(name), *flags, name=name, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that loads and embeds in no time, where the model is not the point."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def rag_accuracies() -> Iterator[Callable[..., dict[str, float]]]:
    """`(client, questions)` -> right answers by what is retrieved by, of a chat endpoint that knows nothing by itself."""
    openai, rag = needed("openai"), load_example("rag")
    with (
        chat_endpoint(reader(rag.fact)) as url,
        openai.OpenAI(base_url=url, api_key="none", http_client=openai.DefaultHttpxClient(trust_env=False)) as chat,
    ):

        def measure(client: Client, asked: list[Any]) -> dict[str, float]:
            found = {by: rag.accuracy(client, chat, "reader", asked, by, limit=3) for by in rag.RETRIEVED_BY}
            for by, share in found.items():
                print(f"{by:>12} {share:.3f}  ({len(asked)} questions)")
            return found

        yield measure
