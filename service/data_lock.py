"""The lock of a data folder: one server at a time has it, and says by its process id which."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import Conflict


@contextmanager
def only_server_of(data_dir: Path) -> Iterator[None]:
    """Holds the lock of a data folder. Raises `Conflict` when another server has it; the lock ends with its process."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise Conflict(f"data folder {data_dir} is in use by another ret2 server (process {owner})") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def server_of(data_dir: Path) -> int | None:
    """The process id of the server that holds the lock; None when nobody does."""
    try:
        with (data_dir / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (FileNotFoundError, ValueError):  # never served, or its server has not yet written its id
        pass
    return None
