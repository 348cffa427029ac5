"""Servers as children of the bench: started on a free port, waited for, stopped. Both kinds get the same environment and the same host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_READY_S = 300.0  # weights from a cold disk
_STOP_S = 40.0
_LOG_LINES = 15


class ServerFailed(RuntimeError):
    """It ended, or was not ready in time; the message has the end of its log."""


@contextmanager
def start_ret2(
    model: str | Path,
    *flags: str,
    role: str = "all",
    device: str = "cpu",
    data: Path | None = None,
    log: Path | None = None,
) -> Iterator[str]:
    """`ret2 serve` over `data`, or else an empty data directory: its address. The one place that knows its command line."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ret2-bench-") as scratch:
        command = [sys.executable, "-m", "service", "serve", "--role", role, "--model", str(model), "--device", device]
        command += ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data or f"{scratch}/data"), *flags]
        with running(command, f"http://127.0.0.1:{port}", "/readyz", log or Path(scratch) / "log") as url:
            yield url


@contextmanager
def running(
    command: Sequence[str], url: str, ready_path: str, log: Path, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """Yields `url` once `ready_path` answers 200; ends the child however the body ends."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
            env={**os.environ, **(environment or {})},
        )
    try:
        _wait_until_ready(child, url + ready_path, log)
        yield url
    finally:
        _stop(child)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy could not reach our own machine
    until = time.monotonic() + _READY_S
    while True:
        try:
            with direct.open(url, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            pass
        if child.poll() is not None:
            raise ServerFailed(f"the server ended with status {child.returncode}: {_tail(log)}")
        if time.monotonic() > until:
            raise ServerFailed(f"the server is not ready after {_READY_S:g} s: {_tail(log)}")
        time.sleep(0.2)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
