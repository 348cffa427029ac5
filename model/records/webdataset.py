"""WebDataset: a tar in which the members that share a name up to its first dot are one sample, wherever they stand.

The headers of a shard are read first (`SampleIndex`). Where the members of every sample are neighbours, as the format
wants it, parts are ranges of bytes. Else the shard is one part, read by the index; a compressed one is unpacked to a
temporary file for that.
"""

from __future__ import annotations

import io
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import orjson

from model.errors import InvalidInput, TooLarge
from model.records import strict_json
from model.records.base import (
    MAX_RECORD_BYTES,
    MAX_SKIPPED_BYTES,
    Cut,
    FieldFilter,
    Record,
    Span,
    every_field,
)
from model.records.opened_file import OpenedFile

KEY, SHARD = RESERVED = ("__key__", "__shard__")
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
TEXTS = ("txt", "text", "caption", "cls")
# Of one sample; more is an archive of something else.
_MAX_MEMBERS = 64
# Long names and extended attributes of a member; a header of more is not one.
_MAX_HEADER_BYTES = 2**20
# A compressed shard whose members are scattered, unpacked.
_MAX_UNPACKED_BYTES = 4 * 2**30
_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive: `kind` is what follows the first dot of its name."""

    name: str
    key: str
    kind: str
    size_bytes: int
    start: int
    data_start: int
    end: int


@dataclass(slots=True)
class _Run:
    """Neighbouring members of one key. `repeats`: the number of the sample that has members of these names already."""

    members: list[Member]
    start: int
    end: int
    repeats: int | None = None


def spans(opened: OpenedFile, cut: Cut) -> Iterator[Span]:
    """Cut the shard into parts, after all its headers were read: a member may stand anywhere.

    Of a damaged shard those before the damage come first, then `InvalidInput` is raised.
    """
    with closing(SampleIndex(opened)) as index:
        if index.scattered:
            yield Span(0, opened.size_bytes, index.count, scattered=True)
        elif opened.whole and index.count:
            yield Span(0, opened.size_bytes, index.count)
        else:
            start, number, end, last = 0, 1, 0, 0
            for last, end in index.ends():
                if last - number + 1 >= cut.rows or end - start >= cut.size_bytes:
                    yield Span(start, end, last - number + 1, number)
                    start, number = end, last + 1
            if last >= number:
                yield Span(start, end, last - number + 1, number)
        if index.damage is not None:
            raise index.damage


def records(opened: OpenedFile, span: Span | None = None, is_used: FieldFilter = every_field) -> Iterator[Record]:
    """Read samples: `__shard__`, `__key__`, `key`, each member by its kind, and the fields of a JSON object member."""
    shard = opened.name.partition(".tar")[0].removesuffix(".tgz")
    shard = f"{opened.folder}/{shard}" if opened.folder else shard
    if span is None or span.scattered:
        with closing(SampleIndex(opened)) as index:
            opened.restart()
            if index.scattered:
                yield from _scattered_records(opened, index, shard, is_used)
            else:
                yield from _neighbour_records(opened, Span(0, index.end, index.count), shard, is_used)
            if index.damage is not None:
                raise index.damage
    else:
        yield from _neighbour_records(opened, span, shard, is_used)


def _neighbour_records(opened: OpenedFile, span: Span, shard: str, is_used: FieldFilter) -> Iterator[Record]:
    """Read samples one after the other, as they stand."""
    file = _readable(opened)
    start, end = (0, None) if opened.whole else (span.start, span.end)
    for number, run in enumerate(_runs(file, opened.name, start, end, is_used), span.number):
        if number >= span.number + span.count:
            return
        yield _record(f"{opened.name} sample {number}", run.run.members, run.data, shard, is_used)


def _scattered_records(opened: OpenedFile, index: SampleIndex, shard: str, is_used: FieldFilter) -> Iterator[Record]:
    """Read samples in the order of their first members, each from the places where the index found its members."""
    with _seekable(opened) as file:
        for number, places, repeated in index.samples():
            where = f"{opened.name} sample {number}"
            members: list[Member] = []
            data: dict[str, bytes] = {}
            for start, end in places:
                for run in _runs(file, opened.name, start, end, is_used, held_bytes=sum(map(len, data.values()))):
                    members += run.run.members
                    data |= run.data
            if repeated is not None:
                names = ", ".join(repr(member.name) for member in members[:3])
                key = members[0].key
                detail = f"{where} ({key}) repeats the key of sample {repeated} with members that it has: {names:.200}"
                yield Record(where, InvalidInput(f"{detail}; keys must be unique in a shard"))
            else:
                yield _record(where, members, data, shard, is_used)


class SampleIndex:
    """The members of each sample of a shard, found from the headers alone. It is kept in a temporary file: close it.

    A run of members whose key was there before belongs to that sample, unless that has members of the same kinds: then
    the run is a sample of its own, which is to be refused.
    """

    def __init__(self, opened: OpenedFile) -> None:
        # SQLite writes a database without a name to a temporary file as it outgrows its cache of two megabytes.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE run (sample INTEGER, start INTEGER, stop INTEGER, repeats INTEGER);"
            "CREATE TABLE sample (key TEXT PRIMARY KEY, number INTEGER, kinds TEXT) WITHOUT ROWID;"
        )
        self._database.execute("BEGIN")
        self.count, self.end, self.scattered = 0, 0, False
        self.damage: InvalidInput | None = None
        try:
            for run in _runs(_readable(opened), opened.name, 0, None, None):
                self._add(run.run)
        except InvalidInput as error:
            self.damage = error
        self._database.execute("COMMIT")
        if self.scattered:
            self._database.execute("CREATE INDEX run_of_sample ON run (sample, start)")

    def close(self) -> None:
        self._database.close()

    def ends(self) -> Iterator[tuple[int, int]]:
        """Yield (number, where it ends) of each sample of a shard that is not scattered."""
        return iter(self._database.execute("SELECT sample, stop FROM run ORDER BY rowid"))

    def samples(self) -> Iterator[tuple[int, list[tuple[int, int]], int | None]]:
        """Yield (number, where its runs begin and end, the number of the sample that it repeats) of each sample."""
        number, repeats = 1, None
        places: list[tuple[int, int]] = []
        for sample, start, stop, repeated in self._database.execute("SELECT * FROM run ORDER BY sample, start"):
            if sample != number:
                yield number, places, repeats
                number, places = sample, []
            places.append((start, stop))
            repeats = repeated
        if places:
            yield number, places, repeats

    def _add(self, run: _Run) -> None:
        key = run.members[0].key
        kinds = {member.kind for member in run.members}
        sample = self._database.execute("SELECT number, kinds FROM sample WHERE key = ?", (key,)).fetchone()
        repeats = None
        if sample is None:
            self.count += 1
            number = self.count
            self._database.execute("INSERT INTO sample VALUES (?, ?, ?)", (key, number, "\0".join(kinds)))
        else:
            self.scattered = True
            number, known_kinds = sample[0], set(sample[1].split("\0"))
            if known_kinds & kinds:
                self.count += 1
                number, repeats = self.count, number
            else:
                merged = "\0".join(known_kinds | kinds)
                self._database.execute("UPDATE sample SET kinds = ? WHERE key = ?", (merged, key))
        self._database.execute("INSERT INTO run VALUES (?, ?, ?, ?)", (number, run.start, run.end, repeats))
        self.end = run.end


# --- members


@dataclass(slots=True)
class _ReadRun:
    run: _Run
    data: dict[str, bytes]


def _runs(
    file: BinaryIO, name: str, start: int, end: int | None, is_used: FieldFilter | None, *, held_bytes: int = 0
) -> Iterator[_ReadRun]:
    """Put neighbours of one key together. Without `is_used` no data is read; of one run never more than a record may
    have."""
    current: _ReadRun | None = None
    for member in _members(file, name, start, end):
        if current is not None and member.key != current.run.members[0].key:
            yield current
            current = None
        if current is None:
            current = _ReadRun(_Run([], member.start, member.end), {})
        run = current.run
        run.end = member.end
        is_repeated = any(earlier.kind == member.kind for earlier in run.members)
        if len(run.members) <= _MAX_MEMBERS:
            run.members.append(member)
        if is_used is None or is_repeated or not _is_read(member, is_used):
            continue
        if held_bytes + sum(map(len, current.data.values())) + member.size_bytes <= MAX_RECORD_BYTES:
            current.data[member.kind] = _data(file, member)
    if current is not None:
        yield current


def _members(file: BinaryIO, name: str, start: int, end: int | None) -> Iterator[Member]:
    """Read headers. tarfile ends quietly at a damaged one; here it is an error, for what comes after it would be lost
    unseen."""
    file.seek(start)
    offset = start
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _Headers(file)), mode="r:") as archive:
            info = archive.next()
            while info is not None and (end is None or info.offset < end):
                offset = archive.offset
                base = info.name.rpartition("/")[2]
                if info.isfile() and not base.startswith("."):
                    yield _member(info, offset)
                # Else it remembers them all.
                archive.members = []  # type: ignore[attr-defined]
                info = _next(archive, file)
            if end is None:
                _refuse_more(file)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} is not a readable tar after byte {offset}: {error}") from error


def _member(info: tarfile.TarInfo, end: int) -> Member:
    folder, _, base = info.name.rpartition("/")
    stem, _, kind = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    # A name that is not UTF-8 has surrogates in it, which SQLite and the ledger refuse.
    key = key.encode("utf-8", "backslashreplace").decode()
    kind = kind.lower().encode("utf-8", "backslashreplace").decode()
    return Member(info.name, key, kind, info.size, info.offset, info.offset_data, end)


def _next(archive: tarfile.TarFile, file: BinaryIO) -> tarfile.TarInfo | None:
    """Return the next header. A tar ends with blocks of zeros; one that just stops was cut off."""
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


def _refuse_more(file: BinaryIO) -> None:
    """Raise for what stands behind the end of the archive, such as a second one."""
    skipped = 0
    while (data := file.read(_COPY_BYTES)) and skipped < MAX_SKIPPED_BYTES:
        skipped += len(data)
        if data.strip(b"\0"):
            raise tarfile.ReadError("the file goes on after the end of the archive, which is not read")


def _data(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.data_start)
    data = file.read(member.size_bytes)
    if len(data) < member.size_bytes:
        raise tarfile.ReadError("unexpected end of data")
    return data


# --- fields


def _record(where: str, members: Sequence[Member], data: dict[str, bytes], shard: str, is_used: FieldFilter) -> Record:
    key = members[0].key
    if (fault := _fault(where, members, data, is_used)) is not None:
        return Record(where, fault)
    fields: dict[str, Any] = dict(data)
    try:
        described = _object(fields.pop("json", None))
        texts = {kind: fields[kind].decode("utf-8").strip() for kind in fields if is_text(kind)}
    except (orjson.JSONDecodeError, UnicodeDecodeError, TypeError, RecursionError) as error:
        return Record(where, InvalidInput(f"{where} ({key}) has a text that cannot be read: {error}"))
    unread = tuple(
        unused_picture(member.kind) for member in members if is_picture(member.kind) and member.kind not in data
    )
    return Record(where, {"key": key, **described, **fields, **texts, KEY: key, SHARD: shard}, unread)


def unused_picture(kind: str) -> str:
    """Return how a picture that a sample has and its document does not use is counted."""
    return f"a picture (.{kind.rpartition('.')[2]}) of a sample that its document does not use"


def _fault(where: str, members: Sequence[Member], data: dict[str, bytes], is_used: FieldFilter) -> InvalidInput | None:
    key = members[0].key
    if len(members) > _MAX_MEMBERS:
        return TooLarge(f"{where} ({key}) has more than {_MAX_MEMBERS} members", limit=_MAX_MEMBERS)
    kinds: set[str] = set()
    for member in members:
        if member.kind in kinds:
            return InvalidInput(f"{where} ({key}) has two members {member.kind!r}")
        kinds.add(member.kind)
    for member in members:
        if member.kind not in data and _is_read(member, is_used):
            limit = MAX_RECORD_BYTES
            return TooLarge(
                f"{where}: with {member.name!r:.200}, which has {member.size_bytes} bytes, the sample is over {limit} "
                "bytes",
                limit=limit,
            )
    return None


def _is_read(member: Member, is_used: FieldFilter) -> bool:
    return member.kind == "json" or is_used(member.kind)


def is_text(kind: str) -> bool:
    """Return whether a member of this kind is a text, by the last part of its name."""
    return kind.rpartition(".")[2] in TEXTS


def is_picture(kind: str) -> bool:
    """Return whether a member of this kind is a picture, by the last part of its name."""
    return kind.rpartition(".")[2] in IMAGES


def _object(data: bytes | None) -> dict[str, Any]:
    value = {} if data is None else strict_json.loads(data)
    if not isinstance(value, dict):
        raise TypeError(f"the JSON member is a {type(value).__name__}, not an object")
    return {name: content for name, content in value.items() if content is not None}


# --- files as tarfile wants them


def _readable(opened: OpenedFile) -> BinaryIO:
    return cast("BinaryIO", _Forward(opened.file)) if opened.whole else opened.file


@contextmanager
def _seekable(opened: OpenedFile) -> Iterator[BinaryIO]:
    """Yield the file, or the content of a compressed file in a temporary file."""
    if not opened.whole:
        yield opened.file
        return
    with tempfile.TemporaryFile() as unpacked:
        while data := _intact(opened.file):
            unpacked.write(data)
            if unpacked.tell() > _MAX_UNPACKED_BYTES:
                limit = _MAX_UNPACKED_BYTES
                raise TooLarge(
                    f"{opened.name} has over {limit} bytes unpacked, and its members are not sorted by name, so that "
                    "it "
                    "must be unpacked to be read; sort them or give it uncompressed",
                    limit=limit,
                )
        yield cast("BinaryIO", unpacked)


def _intact(file: BinaryIO) -> bytes:
    """Read on; damage ends the file, and the index knows of it."""
    try:
        return file.read(_COPY_BYTES)
    except InvalidInput:
        return b""


class _Headers(io.RawIOBase):
    """A file that tarfile reads headers from, none of which may be larger than it has to be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes, limit is {_MAX_HEADER_BYTES}")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


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
