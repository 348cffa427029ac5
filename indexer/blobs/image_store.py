"""Document images as content-addressed files behind fsspec: the name is the SHA-256 of the bytes, so writing twice
writes once.

    put ─► there and young? nothing · there and old? made young again · else written whole or not at all
    sweep ─► page of names ─► older than the grace time? ─► referenced by nobody? ─► still old? ─► deleted
                                                       on an object store: set aside ─► a grace time later, still by nobody? ┘

Thumbnails lie beside them, by the digest of their image: `thumbnails/256/ab/cd/abcd…`. A sweep deletes those of images
that nobody refers to.

A blob is young for half the grace time after its last `put`. So a `put` that its document refers to within that half is
never swept, whether it wrote the blob or found it there. On a local disk a lock sees to that. Object stores have
neither locks nor a deletion of what is unchanged that all of them know, so a deletion may hit what was put a moment
before: `get` finds it where it was set aside.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import structlog

from indexer.blobs.local_files import LocalFiles
from indexer.object_storage import StoreErrors, connect, is_local, named
from model.errors import DependencyUnavailable, InvalidInput, NotFound
from model.settings import setting

T = TypeVar("T")
log = structlog.get_logger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{2}")
_LOCAL_THREADS = 4  # a disk does not get faster by more
_REMOTE_THREADS = 16  # a request to an object store is some 20 ms of waiting
_PAGE = 1000  # what one page of S3's own listing holds
# A single write is whole or not at all there (S3, GCS and Azure say so; memory:// is one dictionary). Elsewhere: a new
# name, then moved.
_ATOMIC_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})

# Which of these digests do documents refer to? Asked a page at a time, so no list of all documents is ever held.
Referenced = Callable[[Sequence[str]], Awaitable[AbstractSet[str]] | AbstractSet[str]]


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """`url` is a folder or any fsspec URL; credentials and endpoint of a store come from its own variables (AWS_…)."""

    url: str
    # Of a listing, one page.
    timeout_s: float = setting(30.0, "blobs_timeout_s", "one image read or written there", gt=0)
    grace_s: float = setting(
        24 * 3600.0,
        "sweep_grace_s",
        "younger images stay, whatever refers to them: over twice the longest time from storing an image to accepting "
        "or indexing its document",
        ge=600,
    )


@dataclass(frozen=True, slots=True)
class Stored:
    digest: str
    size_bytes: int
    modified_s: float  # Unix time by the store's clock


@dataclass(frozen=True, slots=True)
class Swept:
    kept: int
    deleted: int
    deleted_bytes: int


class Blobs:
    """Safe to use from many tasks. What `put` returned is on disk. Close it to end its threads."""

    def __init__(self, settings: BlobSettings | str, *, options: Mapping[str, Any] | None = None) -> None:
        """Open the storage. `options` are passed to fsspec, such as the endpoint and keys of a test."""
        self._settings = BlobSettings(settings) if isinstance(settings, str) else settings
        self._what = f"image storage {named(self._settings.url)}"
        self._files, self._root = connect(self._settings.url, timeout_s=self._settings.timeout_s, options=options)
        self._aside = f"{self._root}/aside"
        self._thumbnails = f"{self._root}/thumbnails"
        self._local = LocalFiles(self._root) if is_local(self._files) else None
        protocols = [self._files.protocol] if isinstance(self._files.protocol, str) else self._files.protocol
        self._atomic = not _ATOMIC_PROTOCOLS.isdisjoint(protocols)
        self._is_memory = "memory" in protocols
        self._made_at_s, self._made_monotonic_s = time.time(), time.monotonic()
        self._threads = ThreadPoolExecutor(
            _LOCAL_THREADS if self._local else _REMOTE_THREADS, thread_name_prefix="blobs"
        )

    def _now_s(self) -> float:
        """Return the time, or where the clock was set forward since the start, what it would be: no image becomes
        old by that."""
        return min(time.time(), self._made_at_s + time.monotonic() - self._made_monotonic_s)

    async def put_thumbnail(self, digest: str, side_px: int, data: bytes) -> None:
        """Keep what was drawn of the image of this digest, until a sweep finds the image without a document. Raises
        `DependencyUnavailable`."""
        await self._run(partial(self._put_thumbnail, digest, side_px, data))

    async def get_thumbnail(self, digest: str, side_px: int) -> bytes | None:
        """Return what `put_thumbnail` kept, None where there is none. Raises `DependencyUnavailable`."""
        path = self._thumbnail_path(digest, side_px)
        with suppress(NotFound):
            return await self._run(lambda: bytes(self._files.cat_file(path)))
        return None

    @property
    def is_local(self) -> bool:
        """A folder of this machine."""
        return self._local is not None

    async def put(self, data: bytes) -> str:
        """Store the bytes and return their digest, 64 hex digits. A damaged file is replaced. Raises
        `DependencyUnavailable`.
        """
        digest = hashlib.sha256(data).hexdigest()
        await self._run(partial(self._put, digest, data))
        return digest

    async def get(self, digest: str) -> bytes:
        """Return the bytes of this digest. Raises `NotFound`, also for a damaged file, and `DependencyUnavailable`
        where the storage as a whole is missing.
        """
        path = self._path(digest)
        try:
            data = await self._run(partial(self._read, digest))
        except NotFound as error:
            raise NotFound(f"there is no image {digest}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            log.error("image damaged", path=path, size_bytes=len(data))
            raise NotFound(
                f"image {digest} is damaged: its {len(data)} bytes have another checksum. Post it again to mend it"
            )
        return data

    async def pages(self, size: int = _PAGE) -> AsyncIterator[list[Stored]]:
        """Yield all blobs in the order of their digests, at most `size` at a time.

        Memory holds the names under one of 256 prefixes.
        """
        if size < 1:
            raise InvalidInput(f"page size is {size}, at least 1 is needed", field="size", value=size, limit=1)
        async for page in self._pages(self._root, size):
            yield page

    async def _pages(self, root: str, size: int) -> AsyncIterator[list[Stored]]:
        for prefix in await self._run(partial(self._prefixes, root)):
            blobs = iter(await self._run(partial(self._under, f"{root}/{prefix}")))
            while page := list(islice(blobs, size)):
                yield page

    async def _sweep_aside(self, ask: Callable[[Sequence[str]], Awaitable[AbstractSet[str]]], grace_s: float) -> None:
        """Delete images that were set aside a grace time ago: a document that was posted at that time refers to its
        image by now, or nothing does."""
        async for page in self._pages(self._aside, _PAGE):
            before_s = self._now_s() - grace_s
            old = [blob.digest for blob in page if blob.modified_s < before_s]
            needed = await ask(old) if old else frozenset()
            for digest in old:
                with suppress(NotFound):  # another sweep is at it
                    if digest in needed:
                        await self._run(partial(self._read, digest))
                    await self._run(partial(self._files.rm_file, self._path(digest, self._aside)))

    async def _sweep_thumbnails(self, ask: Callable[[Sequence[str]], Awaitable[AbstractSet[str]]]) -> None:
        """Delete the thumbnails of images that nobody refers to, however young: one that is needed after all is drawn
        again."""
        root = self._thumbnails
        for side in await self._run(partial(self._names, root)):
            async for page in self._pages(f"{root}/{side}", _PAGE):
                digests = [thumbnail.digest for thumbnail in page]
                referenced_digests = await ask(digests)
                for digest in [candidate for candidate in digests if candidate not in referenced_digests]:
                    with suppress(NotFound):  # another sweep is at it
                        path = self._thumbnail_path(digest, int(side))
                        await self._run(partial(self._files.rm_file, path))

    async def sweep(self, referenced: Referenced | Iterable[str], older_than_s: float | None = None) -> Swept:
        """Delete images without references that are older than the grace time, or than `older_than_s`, which must be at
        least as long.

        It never deletes an image that a `put` is storing. On an object store the space is freed one grace time later,
        by a later sweep.
        """
        grace_s = self._settings.grace_s if older_than_s is None else older_than_s
        if grace_s < self._settings.grace_s:
            raise InvalidInput(
                f"older_than_s is {grace_s:g}, it must be at least the grace time {self._settings.grace_s:g}",
                field="older_than_s",
                value=grace_s,
                limit=self._settings.grace_s,
            )
        ask = _asking(referenced)
        await self._sweep_thumbnails(ask)
        if not self._local:
            await self._sweep_aside(ask, grace_s)
        kept_images = deleted = deleted_bytes = 0
        async for page in self.pages():
            before_s = self._now_s() - grace_s
            old = [blob for blob in page if blob.modified_s < before_s]
            referenced_digests = await ask([blob.digest for blob in old]) if old else frozenset()
            for blob in [candidate for candidate in old if candidate.digest not in referenced_digests]:
                if await self._run(partial(self._delete, blob.digest, before_s)):
                    deleted, deleted_bytes = deleted + 1, deleted_bytes + blob.size_bytes
            kept_images += len(page)
        if self._local:
            await self._run(partial(self._local.remove_temporaries, self._now_s() - grace_s))
        return Swept(kept_images - deleted, deleted, deleted_bytes)

    async def run(self, work: Callable[[], T]) -> T:
        """Run image work that belongs to storing, such as making a thumbnail, in the threads of this storage."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown()

    def _path(self, digest: str, root: str | None = None) -> str:
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput(f"{digest!r:.100} is not a SHA-256 in hex")
        return f"{root or self._root}/{digest[:2]}/{digest[2:4]}/{digest}"

    def _thumbnail_path(self, digest: str, side_px: int) -> str:
        return self._path(digest, f"{self._thumbnails}/{side_px}")

    def _put_thumbnail(self, digest: str, side_px: int, data: bytes) -> None:
        path = self._thumbnail_path(digest, side_px)
        if self._local:
            self._local.put(path, data, 0.0)
        else:
            self._write(path, data)

    def _put(self, digest: str, data: bytes) -> None:
        path = self._path(digest)
        renew_before_s = time.time() - self._settings.grace_s / 2
        if self._local:
            self._local.put(path, data, renew_before_s)
            return
        try:
            info = self._files.info(path)
        except FileNotFoundError:
            self._write(path, data)
            return
        # An object store checks content itself, but a copy made by other means may be cut.
        if _modified_s(info) < renew_before_s or info.get("size") != len(data):
            self._write(path, data)

    def _write(self, path: str, data: bytes) -> None:
        if self._atomic:
            self._files.pipe_file(path, data)
        else:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            part = f"{path}.{uuid.uuid4().hex}.part"  # of this writer alone: another's may be half written
            self._files.pipe_file(part, data)
            self._files.mv(part, path)

    def _read(self, digest: str) -> bytes:
        """Read an image. One that a sweep set aside while it was put again is brought back."""
        path = self._path(digest)
        try:
            return bytes(self._files.cat_file(path))
        except FileNotFoundError as error:
            if not self._is_there():
                raise DependencyUnavailable(f"{self._what}: the whole storage is not there") from error
            if self._local:
                raise
        data = bytes(self._files.cat_file(self._path(digest, self._aside)))
        self._write(path, data)
        return data

    def _is_there(self) -> bool:
        """Return whether the folder or bucket exists, so that a disk that is not mounted does not look like missing
        images."""
        if self._local:
            return self._local.is_there()
        try:
            self._files.info(self._root if self._is_memory else self._root.partition("/")[0])
        except FileNotFoundError:
            return False
        except PermissionError:
            pass  # there, and its keys are good for objects alone
        return True

    def _modified_s(self, path: str) -> float | None:
        try:
            return _modified_s(self._files.info(path))
        except FileNotFoundError:
            return None

    def _delete(self, digest: str, before_s: float) -> bool:
        path = self._path(digest)
        if self._local:
            return self._local.delete(path, before_s)
        modified_s = self._modified_s(path)
        if modified_s is None or modified_s >= before_s:
            return False
        try:
            self._write(self._path(digest, self._aside), self._files.cat_file(path))
            self._files.rm_file(path)
        except FileNotFoundError:
            return False
        return True

    def _prefixes(self, root: str) -> list[str]:
        return [name for name in self._names(root) if _PREFIX.fullmatch(name)]

    def _names(self, root: str) -> list[str]:
        try:
            return sorted(name.rstrip("/").rpartition("/")[2] for name in self._files.ls(root, detail=False))
        except FileNotFoundError:
            return []  # nothing was ever put

    def _under(self, folder: str) -> list[Stored]:
        files = self._files.find(folder, detail=True)
        named_so = ((path.rpartition("/")[2], info) for path, info in files.items())
        blobs = [
            Stored(name, int(info["size"]), _modified_s(info)) for name, info in named_so if _DIGEST.fullmatch(name)
        ]
        return sorted(blobs, key=lambda blob: blob.digest)

    async def _run(self, call: Callable[[], T]) -> T:
        """Run a call off the event loop and within the time-out. A call that exceeds it ends in its thread by the
        time-outs of the storage."""
        timeout_s = self._settings.timeout_s
        # Wrong keys are the operator's to mend, and then the work goes on: no document is at fault.
        with StoreErrors(self._what, denied=DependencyUnavailable):
            try:
                return await asyncio.wait_for(self.run(call), timeout_s)
            except TimeoutError as error:
                raise DependencyUnavailable(
                    f"{self._what}: no answer within {timeout_s:g} s", limit=timeout_s
                ) from error


def _asking(referenced: Referenced | Iterable[str]) -> Callable[[Sequence[str]], Awaitable[AbstractSet[str]]]:
    fixed = None if callable(referenced) else frozenset(referenced)

    async def ask(digests: Sequence[str]) -> AbstractSet[str]:
        if fixed is not None:
            return fixed
        answer = referenced(digests)  # type: ignore[operator]  # fixed is None only for a callable
        return await answer if inspect.isawaitable(answer) else answer

    return ask


def _modified_s(info: Mapping[str, Any]) -> float:
    """Return when a blob was last written; each file system has its own name for it."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str) and value:
            return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    return time.time()  # a store that does not say: never old enough to be swept
