"""Whole files on a local disk that survive a power cut: file, then name, then every folder on the way that may be
new."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = ".part-"


class LocalFiles:
    """Safe to use from many threads and processes. Remembers which folders it knows to be on disk: at most 256 · 256 of
    them.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._durable: set[Path] = set()

    def is_there(self) -> bool:
        return self._root.is_dir()

    def put(self, path: str, data: bytes, renew_before_s: float) -> None:
        """Write the file, or renew one that already has this content and is older than `renew_before_s`. It is on disk
        afterwards.

        A file that exists may be another writer's and not durable yet, so its folders are synced too. One with other
        content is damaged, for its name is its checksum, and is replaced.
        """
        target = Path(path)
        self._make(target.parent)
        with _locked(target.parent, fcntl.LOCK_SH) as folder:
            if not _renewed(target, data, renew_before_s):
                _write(target, data)
            os.fsync(folder)

    def delete(self, path: str, before_s: float) -> bool:
        """Delete a file that is older than `before_s`. Return whether it was. The lock keeps a `put` from finding it at
        that moment.
        """
        target = Path(path)
        try:
            with _locked(target.parent, fcntl.LOCK_EX):
                if target.stat().st_mtime >= before_s:
                    return False
                target.unlink()
        except FileNotFoundError:
            return False
        return True

    def remove_temporaries(self, before_s: float) -> None:
        """Remove the files that killed processes left half-written."""
        for depth in ("*/*", "thumbnails/*/*/*"):
            for path in self._root.glob(f"{depth}/{_TEMPORARY}*"):
                try:
                    if path.stat().st_ctime < before_s:
                        path.unlink()
                except FileNotFoundError:
                    continue

    def _make(self, folder: Path) -> None:
        """Make the folder and fsync it into its parent.

        One that exists may be another writer's that is not synced yet.
        """
        if folder in self._durable and folder.is_dir():
            return
        if folder != self._root:
            self._make(folder.parent)
        folder.mkdir(parents=folder == self._root, exist_ok=True)
        with _opened(folder.parent) as parent:
            os.fsync(parent)
        self._durable.add(folder)


def _renewed(path: Path, data: bytes, before_s: float) -> bool:
    """Return whether the file has this content, and renew it if it is older than `before_s`."""
    try:
        status = path.stat()
        if status.st_size != len(data) or path.read_bytes() != data:
            return False
        if status.st_mtime < before_s:
            os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{_TEMPORARY}{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[int]:
    """Lock the folder among threads and processes, until the end of the block or of the process."""
    with _opened(folder) as descriptor:
        fcntl.flock(descriptor, kind)
        yield descriptor
