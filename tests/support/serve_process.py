"""`ret2 serve` as a process of a test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One `ret2 serve`."""

    def __init__(self, folder: Path, model: Path, program: Sequence[str] = ("-m", "service"), **flags: Any) -> None:
        self.url = f"http://127.0.0.1:{flags.setdefault('port', free_port())}"
        self.client: httpx.Client | None = None
        self.log = folder / f"serve-{flags['port']}.log"
        flags.setdefault("data_dir", folder / "data")
        command = [sys.executable, *program, "serve", f"--model={model}"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def ready(self) -> httpx.Client:
        self.client = client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if client.get("/readyz").status_code == 200:
                    return client
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready:\n{self.log.read_text()}")

    def end(self) -> None:
        if self.client is not None:
            self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
