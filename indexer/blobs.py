"""Document images as content-addressed files behind fsspec: the name is the SHA-256 of the bytes, so writing twice writes once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from model.errors import DependencyUnavailable, InvalidInput, NotFound

T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_THREADS = 4


class Blobs:
    """Safe to use from many tasks. What `put` returned is on disk. Close it to end its threads."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")

    async def put(self, data: bytes) -> str:
        """Stores the bytes and returns their digest, 64 hex digits."""
        digest = hashlib.sha256(data).hexdigest()
        await self._run(lambda: self._write(self._path(digest), data))
        return digest

    async def get(self, digest: str) -> bytes:
        """Raises `NotFound`."""
        path = self._path(digest)
        try:
            return await self._run(lambda: bytes(self._files.cat_file(path)))
        except FileNotFoundError as error:
            raise NotFound(f"there is no image {digest}") from error

    def close(self) -> None:
        self._threads.shutdown()

    def _path(self, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput(f"{digest!r:.100} is not a SHA-256 in hex")
        return f"{self._root}/{digest[:2]}/{digest[2:4]}/{digest}"

    def _write(self, path: str, data: bytes) -> None:
        if self._files.exists(path):
            return
        if isinstance(self._files, LocalFileSystem):
            _write_durably(Path(path), data)
        else:
            self._files.pipe_file(path, data)

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DependencyUnavailable(f"image storage: {error.strerror or type(error).__name__}") from error


def _write_durably(path: Path, data: bytes) -> None:
    """Whole or not at all, and there after a power cut: file, then name, then the folders that hold the name."""
    folders = [path.parent] if path.parent.exists() else [*path.parents][:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
