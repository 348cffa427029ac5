"""WebDataset: a tar in which the members that share a name up to its first dot are one sample. Parts are ranges of whole samples."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import orjson

from indexer.imports.formats.base import MAX_IMAGE_BYTES, Cut, Opened, Record, Span, Wanted, everything
from model.errors import InvalidInput, TooLarge

KEY, SHARD = OURS = ("__key__", "__shard__")
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
TEXTS = ("txt", "text", "caption", "cls")
_MAX_MEMBERS = 64  # of one sample; more is an archive of something else
_BLOCK_BYTES = 512


def spans(opened: Opened, cut: Cut) -> Iterator[Span]:
    start, count, number, end = 0, 0, 1, 0
    for sample in _samples(_readable(opened), opened.name):
        count, end = count + 1, sample[-1].end
        if not opened.whole and (count >= cut.rows or end - start >= cut.size_bytes):
            yield Span(start, end, count, number)
            start, number, count = end, number + count, 0
    if count:
        yield Span(start, end, count, number)


def records(opened: Opened, span: Span | None = None, wanted: Wanted = everything) -> Iterator[Record]:
    """Fields: `__shard__`, `__key__`, `key`, each member by what follows the first dot of its name, and those of a JSON object member."""
    start, end = (0, None) if span is None or opened.whole else (span.start, span.end)
    shard = opened.name.partition(".tar")[0].removesuffix(".tgz")
    for number, sample in enumerate(_samples(_readable(opened), opened.name, start, end, wanted), 1):
        where = f"{opened.name} sample {number if span is None else span.number + number - 1}"
        fields = _fields(sample, where)
        yield Record(where, fields if isinstance(fields, InvalidInput) else {**fields, SHARD: shard})


class _Member:
    """One file of the archive. `data` is None where it is not wanted or over the limit."""

    def __init__(self, info: tarfile.TarInfo, end: int) -> None:
        folder, _, base = info.name.rpartition("/")
        stem, _, self.kind = base.partition(".")
        self.key = f"{folder}/{stem}" if folder else stem
        self.kind = self.kind.lower()
        self.name, self.size_bytes, self.end = info.name, info.size, end
        self.data: bytes | None = None


def _samples(
    file: BinaryIO, name: str, start: int = 0, end: int | None = None, wanted: Wanted | None = None
) -> Iterator[list[_Member]]:
    """Without `wanted`, no data is read."""
    sample: list[_Member] = []
    for member in _members(file, name, start, end, wanted):
        if sample and member.key != sample[0].key:
            yield sample
            sample = []
        if len(sample) <= _MAX_MEMBERS:
            sample.append(member)
        sample[-1].end = member.end
    if sample:
        yield sample


def _members(file: BinaryIO, name: str, start: int, end: int | None, wanted: Wanted | None) -> Iterator[_Member]:
    """tarfile ends quietly at a damaged header; here it is an error, for what comes after it would be lost unseen."""
    file.seek(start)
    offset = start
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            info = archive.next()
            while info is not None and (end is None or info.offset < end):
                offset = archive.offset
                member = _Member(info, offset)
                if info.isfile() and not info.name.rpartition("/")[2].startswith("."):
                    if wanted is not None and info.size <= MAX_IMAGE_BYTES and _is_used(member.kind, wanted):
                        member.data = _data(archive, info)
                    yield member
                archive.members = []  # type: ignore[attr-defined]  # else it remembers them all
                info = _next(archive, file)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidInput(f"{name} is not a readable tar after byte {offset}: {error}") from error


def _next(archive: tarfile.TarFile, file: BinaryIO) -> tarfile.TarInfo | None:
    """The next header. A tar ends with blocks of zeros; one that just stops was cut off."""
    if file.tell() != archive.offset:
        file.seek(archive.offset - 1)
        if not file.read(1):
            raise tarfile.ReadError("unexpected end of data")
    try:
        return tarfile.TarInfo.fromtarfile(archive)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(str(error)) from error


def _data(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    member = archive.extractfile(info)
    data = member.read() if member else b""
    if len(data) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _is_used(kind: str, wanted: Wanted) -> bool:
    return kind == "json" or wanted(kind)


def _fields(sample: list[_Member], where: str) -> dict[str, Any] | InvalidInput:
    key = sample[0].key
    if len(sample) > _MAX_MEMBERS:
        return TooLarge(f"{where} ({key}) has more than {_MAX_MEMBERS} members", limit=_MAX_MEMBERS)
    fields: dict[str, Any] = {}
    for member in sample:
        if member.kind in fields:
            return InvalidInput(f"{where} ({key}) has two members {member.kind!r}")
        if member.size_bytes > MAX_IMAGE_BYTES:
            size, limit = member.size_bytes, MAX_IMAGE_BYTES
            return TooLarge(f"{where}: {member.name!r:.200} has {size} bytes, limit is {limit}", limit=limit)
        if member.data is not None:
            fields[member.kind] = member.data
    try:
        described = _object(fields.pop("json", None))
        texts = {kind: fields[kind].decode("utf-8").strip() for kind in fields if kind not in IMAGES and _is_text(kind)}
    except (orjson.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        return InvalidInput(f"{where} ({key}) has a text that cannot be read: {error}")
    return {"key": key, **described, **fields, **texts, KEY: key}


def _is_text(kind: str) -> bool:
    return kind.rpartition(".")[2] in TEXTS


def _object(data: bytes | None) -> dict[str, Any]:
    value = {} if data is None else orjson.loads(data)
    if not isinstance(value, dict):
        raise TypeError(f"the JSON member is a {type(value).__name__}, not an object")
    return {name: each for name, each in value.items() if each is not None}


def _readable(opened: Opened) -> BinaryIO:
    return cast("BinaryIO", _Forward(opened.file)) if opened.whole else opened.file


class _Forward(io.RawIOBase):
    """A stream that can be read once, where tarfile wants to seek: it only ever skips forward."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._offset = stream, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        data = self._stream.read(-1 if size is None else size)
        self._offset += len(data)
        return data

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._offset:
            raise io.UnsupportedOperation("only forward")
        while self._offset < offset and self.read(min(offset - self._offset, 2**20)):
            pass
        return self._offset
