"""Files behind https, copied once to a local folder through the safe fetcher: web servers need not know ranges, and a
unit needs one.

Every machine that reads units of such a file has a copy of its own; its SHA-256 is the file's version, so all of them
read the same.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpcore

from indexer.fetcher import Fetcher, FetchSettings
from model.errors import DependencyUnavailable, TooLarge
from model.settings import setting

_STALL_S = 60.0  # a server that says nothing for so long is taken for dead
_NAME_CHARS = 32


@dataclass(frozen=True, slots=True)
class CopySettings:
    folder: Path
    max_file_bytes: int = setting(10 * 2**30, "import_max_file_bytes", "one file that is downloaded by https", gt=0)
    max_total_bytes: int = setting(
        40 * 2**30,
        "import_max_copies_bytes",
        "all files downloaded by https; beyond it what was used longest ago goes",
        gt=0,
    )
    timeout_s: float = 4 * 3600.0  # of one whole file
    allow_private: bool = FetchSettings().allow_private
    max_redirects: int = FetchSettings().max_redirects


@dataclass(frozen=True, slots=True)
class Copy:
    path: Path
    version: str


class Copies:
    """Safe to use from many threads and processes; each call may take as long as the download does."""

    def __init__(
        self, settings: CopySettings, make_fetcher: Callable[[FetchSettings, BinaryIO], ToFile] | None = None
    ) -> None:
        self._settings, self._make_fetcher = settings, make_fetcher or ToFile

    def get(self, url: str) -> Copy:
        """Return a copy of the file, and download it if there is none. Raises what `Fetcher.fetch` raises."""
        path = self._path(url)
        digest_file = path.with_suffix(".sha256")
        with _locked(path.with_suffix(".lock")):
            if not (path.is_file() and digest_file.is_file()):
                self._make_room(besides=path)
                digest_file.write_text(self._download(url, path))
            os.utime(path)
            return Copy(path, digest_file.read_text())

    def forget(self, url: str) -> None:
        """Make the next `get` download the file again. Open copies stay readable."""
        path = self._path(url)
        with _locked(path.with_suffix(".lock")):
            path.unlink(missing_ok=True)
            path.with_suffix(".sha256").unlink(missing_ok=True)

    def _path(self, url: str) -> Path:
        self._settings.folder.mkdir(parents=True, exist_ok=True)
        return self._settings.folder / hashlib.sha256(url.encode()).hexdigest()[:_NAME_CHARS]

    def _download(self, url: str, path: Path) -> str:
        """Download a file to `path`, and return its digest."""
        part = path.with_suffix(".part")
        settings = self._settings
        bounds = FetchSettings(
            settings.max_file_bytes, settings.timeout_s, settings.max_redirects, settings.allow_private
        )

        async def fetch(file: BinaryIO) -> str:
            async with self._make_fetcher(bounds, file) as fetcher:
                await fetcher.fetch(url)
                return fetcher.digest.hexdigest()

        try:
            with part.open("wb") as file:
                digest = asyncio.run(fetch(file))
            part.replace(path)
        except OSError as error:
            raise DependencyUnavailable(f"the folder of downloads: {error.strerror or type(error).__name__}") from error
        finally:
            part.unlink(missing_ok=True)
        return digest

    def _make_room(self, besides: Path) -> None:
        copies = [path for path in self._settings.folder.iterdir() if not path.suffix and path != besides]
        sized = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in copies)
        total = sum(size for _, size, _ in sized)
        for _, size, path in sized:
            if total + self._settings.max_file_bytes <= self._settings.max_total_bytes:
                return
            path.unlink(missing_ok=True)  # whoever has it open goes on reading
            path.with_suffix(".sha256").unlink(missing_ok=True)
            total -= size


class ToFile(Fetcher):
    """The safe fetcher with the body going to a file as it comes. For one fetch."""

    def __init__(self, settings: FetchSettings, file: BinaryIO, **options: object) -> None:
        super().__init__(settings, **options)  # type: ignore[arg-type]  # as `Fetcher` has them
        self._file, self._max_bytes = file, settings.max_bytes
        self.digest = hashlib.sha256()

    async def _read(self, response: httpcore.Response, host: str) -> bytes:
        """Read the body as it was sent; a compressed file is recognised by its first bytes when it is opened."""
        received = 0
        chunks = response.aiter_stream().__aiter__()
        while True:
            try:
                async with asyncio.timeout(_STALL_S):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return b""
            except TimeoutError as error:
                raise DependencyUnavailable(f"{host} sent nothing for {_STALL_S:g} s", limit=_STALL_S) from error
            received += len(chunk)
            if received > self._max_bytes:
                raise TooLarge(f"{host} answers with more than {self._max_bytes} bytes", limit=self._max_bytes)
            self.digest.update(chunk)
            await asyncio.to_thread(self._file.write, chunk)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file, so that two readers download it once."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
