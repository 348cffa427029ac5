"""The places from which documents may be imported, and how their files are opened: local folders, stores behind fsspec,
https by a copy.

uri ─► `Places.find`: allowed? folder, `*` or file? ─► URIs of files ─► `Places.open`: allowed still? ─► `OpenedFile`,
decompressed

Local paths and stores are refused unless they lie under one of the allowed roots. Links are followed first, so neither
a link nor `..` leads out, and both are looked at again each time a file is opened: a unit may be read days after it was
planned. Whoever can write into a root can exchange a link between that look and the opening; roots must not be writable
to those who may not read it all.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from indexer.imports.downloads import Copies, Copy
from indexer.object_storage import StoreErrors, connect, is_local, named
from model.errors import Forbidden, InvalidInput, NotFound, TooLarge
from model.records.base import MAX_IMAGE_BYTES
from model.records.opened_file import OpenedFile

# Stores that hold objects and nothing else. Others of fsspec's (sftp, github, reference, …) open more than we can
# answer for.
STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
_REMOTE_BLOCK_BYTES = 8 * 2**20  # one request to an object store; held once per open file

ReadImage = Callable[[str], bytes]  # the bytes behind a path beside a file; raises `InvalidInput`


@dataclass(frozen=True, slots=True)
class Place:
    """A file that may be read: the file system and the path inside it."""

    files: Any
    path: str
    display_name: str  # for messages: a local path, or scheme and bucket with the file's name
    name: str


class Places:
    """Safe to use from many threads. `roots` are local folders and URL prefixes such as s3://bucket/exports."""

    def __init__(
        self,
        roots: Sequence[str],
        *,
        copies: Copies | None = None,
        timeout_s: float = 30.0,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Set the roots. The root `https://` allows the whole web, which needs `copies`. `options` are fsspec's, by
        protocol, such as the endpoint and keys of a test."""
        self._copies = copies
        self._folders = [Path(_local(root)).resolve() for root in roots if not _is_url(root)]
        self._prefixes = [root.rstrip("/") for root in roots if _is_url(root)]
        self._timeout_s = timeout_s
        self._options = options or {}
        self._stores: dict[str, Any] = {}

    def place(self, uri: str) -> Place:
        """Return the place of a URI without looking at the storage. Raises `Forbidden` outside the roots and
        `InvalidInput` for anything but the URI of a file."""
        if "\0" in uri or "::" in uri or "\n" in uri:
            raise InvalidInput(f"uri {uri!r:.200} is not a path or URL", field="uri", value=uri[:200])
        if not _is_url(uri):
            return self._local_place(_local(uri))
        if is_web(uri):
            return self._copied(uri)
        parts = urlsplit(uri)
        if parts.scheme not in STORES:
            allowed = f"file, https, {', '.join(sorted(STORES - {'memory'}))}"
            raise InvalidInput(
                f"uri has scheme {parts.scheme!r:.20}, allowed are {allowed}", field="uri", value=parts.scheme
            )
        if parts.username or parts.password:
            raise InvalidInput("uri carries credentials, which is not allowed", field="uri")
        if ".." in uri.split("/") or not any(_under(uri, prefix) for prefix in self._prefixes):
            raise Forbidden(f"{named(uri)} is not under an allowed root: {self._allowed()}", field="uri")
        files = self._store(parts.scheme, uri)
        path = str(files._strip_protocol(uri)).rstrip("/")
        name = path.rpartition("/")[2]
        return Place(files, path, f"{named(uri)} … {name}", name)

    def find(self, uri: str, suffixes: Sequence[str]) -> list[str]:
        """Return the sorted files of a folder (those with one of `suffixes`) or of a pattern with `*`, or the one
        file."""
        if is_web(uri):
            return [uri]
        if "*" in uri:
            return self._matching(uri)
        place = self.place(uri)
        with StoreErrors(place.display_name):
            if not place.files.isdir(place.path):
                if not place.files.exists(place.path):
                    raise NotFound(f"{place.display_name} is not there", field="uri")
                return [uri]
            names = place.files.ls(place.path, detail=False)
        paths = sorted(name for name in names if name.lower().endswith(tuple(suffixes)))
        if not paths:
            raise InvalidInput(
                f"{place.display_name} has no file that ends with {', '.join(suffixes)}",
                field="uri",
                limit=list(suffixes),
            )
        return [_rejoined(uri, name) for name in paths]

    def open(self, uri: str, stop: threading.Event | None = None) -> OpenedFile:
        """Open a file to read records from it, which ends with `ReadingStopped` once `stop` is set."""
        place = self.place(uri)
        with StoreErrors(place.display_name):
            info = place.files.info(place.path)
            if info["type"] != "file":
                raise InvalidInput(f"{place.display_name} is not a file", field="uri")
            if is_local(place.files):
                raw: BinaryIO = Path(place.path).open("rb", buffering=0)  # noqa: SIM115  `OpenedFile` closes it
            else:
                raw = cast("BinaryIO", place.files.open(place.path, "rb", block_size=_REMOTE_BLOCK_BYTES))
        guarded = cast("BinaryIO", _Guarded(raw, place.display_name))
        return OpenedFile(guarded, place.name, int(info["size"]), _folder_name(uri), stop)

    def version(self, uri: str) -> str:
        """Return the version of a file, which changes when the file does."""
        if is_web(uri):
            return self._copy(uri).version
        place = self.place(uri)
        with StoreErrors(place.display_name):
            info = place.files.info(place.path)
        changed = next((info[key] for key in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(key)), "")
        return f"{info['size']}:{changed}".replace('"', "")

    def beside(self, folder_uri: str) -> ReadImage:
        """Return a reader of images whose paths are relative to a folder and stay in it, so that rows cannot name
        arbitrary files of the machine."""
        if is_web(folder_uri):
            return _no_neighbours
        place = self.place(folder_uri)
        if is_local(place.files):
            folder = Path(place.path)
            return lambda name: local_image(name, folder)
        return lambda name: _stored_image(name, place)

    def _local_place(self, path: str) -> Place:
        try:
            resolved = Path(path).resolve()
        except (OSError, RuntimeError) as error:
            raise InvalidInput(f"{path:.200} cannot be read: its links go round in a circle", field="uri") from error
        if not any(resolved.is_relative_to(folder) for folder in self._folders):
            raise Forbidden(f"{path} is not under an allowed root: {self._allowed()}", field="uri", value=path)
        files, inner = connect(str(resolved), timeout_s=self._timeout_s)
        return Place(files, inner, str(resolved), resolved.name)

    def allow(self, uri: str) -> None:
        """Raise `Forbidden` for a URL of the web that is under no root, without any request."""
        climbs = ".." in unquote(urlsplit(uri).path).split("/")
        if self._copies is None or climbs or not any(_under(uri, prefix) for prefix in self._prefixes):
            raise Forbidden(f"{named(uri)} is not under an allowed root: {self._allowed()}", field="uri")

    def refresh(self, uri: str) -> None:
        """Forget the copy of a file of the web, so that the next use downloads it again."""
        self.allow(uri)
        if self._copies is not None:
            self._copies.forget(uri)

    def _copy(self, uri: str) -> Copy:
        self.allow(uri)
        assert self._copies is not None
        return self._copies.get(uri)

    def _copied(self, uri: str) -> Place:
        """Return the place of a downloaded copy. It has the name of its URL without the query, which may be secret."""
        files, path = connect(str(self._copy(uri).path), timeout_s=self._timeout_s)
        parts = urlsplit(uri)
        name = unquote(parts.path.rpartition("/")[2]) or parts.hostname or "file"
        return Place(files, path, f"{parts.scheme}://{parts.hostname} … {name}", name)

    def _matching(self, uri: str) -> list[str]:
        """Return the files that match a pattern. Each match is checked by itself, because a pattern may match links
        that lead outside."""
        base = uri[: uri.index("*")].rpartition("/")[0]
        place = self.place(base or ("/" if uri.startswith("/") else "."))
        with StoreErrors(place.display_name):
            matches = place.files.glob(f"{place.path}/{uri[len(base) :].lstrip('/')}", detail=True)
        paths = sorted(str(name) for name, info in matches.items() if info["type"] != "directory")
        if not paths:
            raise NotFound(f"no file matches {uri}", field="uri", value=uri)
        uris = [_rejoined(uri, name) for name in paths]
        return [file for file in uris if self.place(file)]

    def _store(self, protocol: str, uri: str) -> Any:
        if protocol not in self._stores:
            self._stores[protocol], _ = connect(uri, timeout_s=self._timeout_s, options=self._options.get(protocol))
        return self._stores[protocol]

    def _allowed(self) -> str:
        allowed = ", ".join([*map(str, self._folders), *map(named, self._prefixes)]) or "none is set"
        return f"{allowed} (RET2_IMPORT_ROOTS)"


def local_image(name: str, folder: Path) -> bytes:
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise InvalidInput(f"image {name!r:.200} is outside the folder of the file")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would hang
            raise InvalidInput(f"image {name!r:.200} is not a file")
        if status.st_size > MAX_IMAGE_BYTES:
            raise _too_large(name, status.st_size)
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; links that go round in a circle
        raise InvalidInput(f"image {name!r:.200} cannot be read: {type(error).__name__}") from error


def _no_neighbours(name: str) -> bytes:
    raise InvalidInput(
        f"image {name!r:.200} is a path, and a file behind https has no folder: give images as URLs or base64"
    )


def _stored_image(name: str, place: Place) -> bytes:
    if name.startswith("/") or ".." in name.split("/") or "://" in name:
        raise InvalidInput(f"image {name!r:.200} is outside the folder of the file")
    path = f"{place.path}/{name}"
    try:
        with StoreErrors(place.display_name):
            size_bytes = int(place.files.info(path)["size"])
            if size_bytes > MAX_IMAGE_BYTES:
                raise _too_large(name, size_bytes)
            return bytes(place.files.cat_file(path))
    except NotFound as error:
        raise InvalidInput(f"image {name!r:.200} cannot be read: it is not there") from error


def _too_large(name: str, size_bytes: int) -> TooLarge:
    return TooLarge(f"image {name!r:.200} has {size_bytes} bytes, limit is {MAX_IMAGE_BYTES}", limit=MAX_IMAGE_BYTES)


class _Guarded(io.RawIOBase):
    """A file whose errors are ours, wherever a reader of some format meets them."""

    def __init__(self, file: BinaryIO, display_name: str) -> None:
        self._file, self._errors = file, StoreErrors(display_name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        with self._errors:
            return self._file.read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._errors:
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            super().close()


def _folder_name(uri: str) -> str:
    """Return the name of the folder that a file is in; of one at the top of a bucket or a host, the name of that."""
    path = _local(uri) if not _is_url(uri) else urlsplit(uri).netloc + unquote(urlsplit(uri).path)
    return os.path.normpath(path).rpartition("/")[0].rpartition("/")[2]


def is_web(uri: str) -> bool:
    return uri.startswith(("https://", "http://"))


def _is_url(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def _local(uri: str) -> str:
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def _under(uri: str, prefix: str) -> bool:
    return uri == prefix or uri.startswith(f"{prefix}/")


def _rejoined(uri: str, path: str) -> str:
    """Return a path of a file system as a URI of the same kind as `uri`."""
    return f"{urlsplit(uri).scheme}://{path.lstrip('/')}" if _is_url(uri) else path
