"""The lock of a data folder: one server at a time has it, and says by its process id which."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from model.errors import Conflict, InvalidInput


@contextmanager
def only_server_of(data_dir: Path) -> Iterator[None]:
    """Hold the lock of a data folder, which ends with its process.

    Raises `Conflict` when another server has it, and `InvalidInput` for a folder that cannot be written.
    """
    with _lock_file(data_dir) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise Conflict(f"data folder {data_dir} is in use by another ret2 server (process {owner})") from error
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        except OSError as error:
            raise _unusable(data_dir, error) from error
        yield


def _lock_file(data_dir: Path) -> TextIO:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return (data_dir / "lock").open("a+")
    except OSError as error:
        raise _unusable(data_dir, error) from error


def _unusable(data_dir: Path, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"data folder {data_dir} cannot be used: {error.strerror or error}. RET2_DATA_DIR must name a folder that this "
        "user can write"
    )


def server_of(data_dir: Path) -> int | None:
    """Return the process id of the server that holds the lock, or None."""
    try:
        with (data_dir / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (FileNotFoundError, ValueError):  # never served, or its server has not yet written its id
        pass
    return None
