"""Imports: files of documents somewhere else, cut into units that many workers read and that a restart continues at.

uri, format, mapping ─► check ─► plan ─► Unit, Unit, … ─► read(unit) ─► (position, Incoming | Rejected), …

`check` is for the request: quick, it refuses wrong arguments before there is a job. `plan` reads JSONL, CSV and tar
files once from end to end and Parquet footers, so it is a worker's first step; one that was interrupted is begun again,
for the same files give the same units. `read` gives exactly `count` items whatever is wrong with the file by then, so
indexed + skipped + failed = accepted. Reading a unit twice is harmless: positions and ids are the same. The worker's
side is `indexer.imports.importer`.

A compressed file (gz, zst, bz2, xz) cannot be entered in the middle: it is one unit, and a restart begins it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from indexer.domain.documents import Incoming, Rejected
from indexer.domain.incoming import DocumentBounds, incoming
from indexer.imports.downloads import Copies, CopySettings
from indexer.imports.locations import Places, is_web
from indexer.imports.mapping import FORMATS, Columns, Format, used_fields, with_picture
from indexer.imports.photo_folders import PhotoList, check_folder, list_photos, read_photo
from indexer.imports.reading import (
    FormatReader,
    ReadDocument,
    format_by_name,
    located,
    read_documents,
    reader_of,
    spans_of,
    suffixes_of,
)
from model.errors import InvalidInput, RetrievalError
from model.records.base import Cut, FieldFilter, ReadingStopped, Span
from model.records.opened_file import OpenedFile
from model.settings import setting

_MAX_URI_CHARS = 4096
# Records in which each field of a mapping must be met, else it is taken for a slip of the pen.
_SAMPLE = 1000
# metadata.csv or .jsonl beside the images, as Hugging Face's `imagefolder` has it.
_METADATA = "metadata"
# What a document is made of where there is no mapping.
_DEFAULT_COLUMNS = ("text", "caption", "image", "file_name")


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """`roots`: local folders and URL prefixes that may be imported from; none by default. https needs `copies`."""

    roots: tuple[str, ...] = ()
    copies: CopySettings | None = None
    cut: Cut = field(default_factory=Cut)
    bounds: DocumentBounds = field(default_factory=DocumentBounds)
    max_files: int = setting(10_000, "import_max_files", "files of one import", gt=0)
    max_rows: int = setting(100_000_000, "import_max_rows", "records of one import", gt=0)
    timeout_s: float = setting(30.0, "import_timeout_s", "one request to a store of files", gt=0)


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of one file: `count` records, of which the first has position `first` in the import."""

    uri: str
    format: Format
    version: str  # of the file as it was planned; of another one nothing is read
    span: Span
    first: int
    mapping: Columns | None = None
    image_root: str | None = None

    @property
    def count(self) -> int:
        return self.span.count

    def as_json(self) -> dict[str, Any]:
        mapping = None if self.mapping is None else self.mapping.as_json()
        return {**asdict(self), "mapping": mapping}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Unit:
        mapping = Columns.parse(value["mapping"], value["format"])
        return cls(**{**value, "span": Span(**value["span"]), "mapping": mapping})


class Imports:
    """Blocking; for threads, of which many may use it at once."""

    def __init__(self, settings: ImportSettings, places: Places | None = None) -> None:
        self._settings = settings
        copies = None if settings.copies is None else Copies(settings.copies)
        self._fetched_anew: set[tuple[str, str]] = set()
        # Of the folder that was read last: a list takes seconds to make, and each unit needs it.
        self._photos: dict[str, PhotoList] = {}
        self._places = places or Places(settings.roots, copies=copies, timeout_s=settings.timeout_s)

    def check(
        self,
        uri: str,
        format: str,  # noqa: A002 - the wire's name
        mapping: Mapping[str, Any] | None = None,
        image_root: str | None = None,
    ) -> None:
        """Check everything that can be known at once. Raises `InvalidInput`, `Forbidden`, `NotFound`,
        `DependencyUnavailable`."""
        columns = self._checked(uri, format, mapping)
        if format == "photos":
            if image_root is not None:
                raise InvalidInput("image_root cannot be set: photographs are named by no file", field="image_root")
            check_folder(self._places, uri)
        elif is_web(uri):
            self._places.allow(uri)
        else:
            self._files(uri, cast("Format", format))
        root = image_root or (columns.image_root if columns is not None else None)
        if root is not None:
            self._places.beside(root)

    def plan(
        self,
        uri: str,
        format: str,  # noqa: A002
        mapping: Mapping[str, Any] | None = None,
        image_root: str | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Unit]:
        """Find units, in the order of the files and of their records, one at a time.

        Raises as `check` does, and `InvalidInput` for a file that cannot be read at all or lacks a field that the
        mapping names; of one that is damaged the units before the damage come first. Raises `ReadingStopped` once
        `stop` is set.
        """
        columns = self._checked(uri, format, mapping)
        kind = cast("Format", format)
        if kind == "photos":
            yield from self._plan_photos(uri)
            return
        if is_web(uri):
            self._places.refresh(uri)
        first = 0
        files = self._files(uri, kind)
        if kind == "webdataset" and (columns is None or columns.id is None):
            _refuse_same_ids(files)
        for file in files:
            version = self._places.version(file)
            root = image_root or (columns.image_root if columns else None) or self._image_root(file, kind)
            with self._places.open(file, stop) as opened:
                self._check_fields(opened, kind, columns)
            with self._places.open(file, stop) as opened:
                for span in spans_of(opened, kind, columns, self._settings.cut):
                    yield Unit(file, kind, version, span, first, columns, root)
                    first += span.count
                    if first > self._settings.max_rows:
                        raise self._too_many(uri, first)
        if first == 0:
            raise InvalidInput(f"{uri} has no records", field="uri", value=uri)

    def _plan_photos(self, uri: str) -> Iterator[Unit]:
        photos = list_photos(self._places, uri)
        self._photos.clear()
        self._photos[uri] = photos
        if not photos.names:
            raise InvalidInput(f"{uri} has no pictures", field="uri", value=uri)
        if len(photos.names) > self._settings.max_rows:
            raise self._too_many(uri, len(photos.names))
        for span in photos.spans(self._settings.cut):
            yield Unit(uri, "photos", photos.version, span, span.start)

    def _too_many(self, uri: str, count: int) -> InvalidInput:
        limit = self._settings.max_rows
        return InvalidInput(f"{uri} has more than {limit} records", field="uri", value=count, limit=limit)

    def read(self, unit: Unit, stop: threading.Event | None = None) -> Iterator[tuple[int, Incoming | Rejected]]:
        """Yield `unit.count` items, positions in order. Where a file is damaged or another than was planned, the others
        are rejected.

        Raises `RetrievalError` where it is the store that does not answer: then the unit is to be tried again.
        """
        position, end = unit.first, unit.first + unit.count
        reason: RetrievalError = InvalidInput(f"{Path(unit.uri).name} ends before this record")
        try:
            for item in self._items(unit, stop):
                yield position, item
                position += 1
                if position == end:
                    return
        except RetrievalError as error:
            if error.retryable:
                raise
            reason = error
        for missing in range(position, end):
            yield missing, Rejected(missing, None, reason.code, reason.detail)

    def _is_as_planned(self, unit: Unit) -> bool:
        """Return whether a file has its planned version. A copy on this machine may come from an earlier import; it is
        downloaded again, once for each planned version."""
        if self._places.version(unit.uri) == unit.version:
            return True
        version = unit.uri, unit.version
        if not is_web(unit.uri) or version in self._fetched_anew:
            return False
        self._fetched_anew.add(version)
        self._places.refresh(unit.uri)
        return self._places.version(unit.uri) == unit.version

    def _photo_items(self, unit: Unit, stop: threading.Event | None) -> Iterator[Incoming | Rejected]:
        """Read pictures by the list that they were planned with, or by one of the same names."""
        photos = self._photos.get(unit.uri)
        if photos is None or photos.version != unit.version:
            photos = list_photos(self._places, unit.uri)
            if photos.version != unit.version:
                raise _changed(unit)
            self._photos.clear()
            self._photos[unit.uri] = photos
        read_file = self._places.beside(unit.uri)
        for position, index in enumerate(range(unit.span.start, unit.span.end), unit.first):
            if stop is not None and stop.is_set():
                raise ReadingStopped
            document = read_photo(photos.names[index], read_file, photos.left_out.get(index, ()))
            yield self._item(position, document, read_file)

    def _items(self, unit: Unit, stop: threading.Event | None) -> Iterator[Incoming | Rejected]:
        if unit.format == "photos":
            yield from self._photo_items(unit, stop)
            return
        if not self._is_as_planned(unit):
            raise _changed(unit)
        read_image = self._places.beside(unit.image_root or _folder(unit.uri))
        with self._places.open(unit.uri, stop) as opened:
            documents = read_documents(opened, unit.format, unit.mapping, unit.span)
            for position, document in enumerate(documents, unit.first):
                yield self._item(position, document, read_image)

    def _item(self, position: int, document: ReadDocument, read_image: Callable[[str], bytes]) -> Incoming | Rejected:
        error: RetrievalError
        try:
            if isinstance(document.fields, dict):
                fields = with_picture(document.fields, read_image)
                return replace(incoming(position, fields, self._settings.bounds), left_out=document.left_out)
            error = document.fields
        except RetrievalError as refused:
            if refused.retryable:
                raise
            error = located(document.where, refused)
        except Exception as unforeseen:  # noqa: BLE001 - one record harms itself alone, whatever it raises
            error = InvalidInput(f"{document.where} cannot be read: {type(unforeseen).__name__}")
        return Rejected(position, document.id, error.code, error.detail)

    def _checked(self, uri: str, format: str, mapping: Mapping[str, Any] | None) -> Columns | None:  # noqa: A002
        if format not in FORMATS:
            allowed = ", ".join(FORMATS)
            raise InvalidInput(
                f"format is {format!r:.50}, allowed are {allowed}", field="format", value=format, limit=allowed
            )
        if not isinstance(uri, str) or not 0 < len(uri) <= _MAX_URI_CHARS:
            raise InvalidInput(f"uri must have 1 to {_MAX_URI_CHARS} characters", field="uri", limit=_MAX_URI_CHARS)
        return Columns.parse(mapping, format)

    def _files(self, uri: str, kind: Format) -> list[str]:
        if kind == "images":
            return [self._metadata_file(uri)]
        files = self._places.find(uri, suffixes_of(kind))
        if len(files) > self._settings.max_files:
            limit = self._settings.max_files
            raise InvalidInput(
                f"{uri} has {len(files)} files, limit is {limit}", field="uri", value=len(files), limit=limit
            )
        return files

    def _metadata_file(self, uri: str) -> str:
        files = self._places.find(uri, suffixes_of("images"))
        candidates = [file for file in files if file.rpartition("/")[2].partition(".")[0] == _METADATA] or files
        if len(candidates) > 1:
            names = ", ".join(file.rpartition("/")[2] for file in candidates[:5])
            raise InvalidInput(
                f"{uri} has several CSV or JSONL files ({names}); name the one to read", field="uri", value=uri
            )
        return candidates[0]

    def _image_root(self, file: str, kind: Format) -> str | None:
        """Return the folder to which image paths are relative; for M-BEIR the one that contains `cand_pool`."""
        folder, separator, _ = file.rpartition("/cand_pool/")
        return folder if kind == "mbeir" and separator else None

    def _check_fields(self, opened: OpenedFile, kind: Format, columns: Columns | None) -> None:
        """Refuse a mapping with a misspelt field, which would lose its column silently: it must be in the schema, or
        somewhere in the first records. Metadata of formats without a schema may be rare, and is not looked for.

        A table without a mapping must have a column that documents are made of.
        """
        reader = reader_of(kind, opened.name, columns)
        has_schema = reader.columns is not None
        if columns is None or columns.is_dialect:
            if has_schema and kind not in ("m2kr", "mbeir"):
                _check_default_columns(_fields(reader, opened, set(), used_fields(columns, kind)), opened.name)
            return
        named = {place: name for place, name in columns.named.items() if has_schema or "[" not in place}
        if not named:
            return
        names = _fields(reader, opened, set(named.values()), used_fields(columns, kind))
        for place, name in named.items():
            if name not in names:
                listed = ", ".join(sorted(names)[:30])
                raise InvalidInput(
                    f"mapping.{place} names {name!r:.100}, which {opened.name} does not have; it has {listed}",
                    field=f"mapping.{place}",
                    value=name,
                    limit=sorted(names)[:30],
                )


def _changed(unit: Unit) -> InvalidInput:
    return InvalidInput(
        f"{Path(unit.uri).name} has changed since this import was planned; import it again", field="uri"
    )


def _check_default_columns(names: set[str], name: str) -> None:
    if names.isdisjoint(_DEFAULT_COLUMNS):
        raise InvalidInput(
            f"{name} has the columns {', '.join(sorted(names)[:30])}, and none of {', '.join(_DEFAULT_COLUMNS)}: "
            "say with a mapping which is the text and which the image",
            field="mapping",
        )


def _fields(reader: FormatReader, opened: OpenedFile, searched: set[str], is_used: FieldFilter) -> set[str]:
    """Return the fields of a file, as its schema has them or its first records."""
    if reader.columns is not None:
        return set(reader.columns(opened))
    names: set[str] = set()
    for count, record in enumerate(reader.records(opened, None, is_used), 1):
        names |= set(record.fields) if isinstance(record.fields, dict) else set()
        if searched <= names or count == _SAMPLE:
            break
    return names


def _refuse_same_ids(files: list[str]) -> None:
    """Refuse two shards that give their samples the same ids: an id contains the name of the shard and of the folder of
    the shard."""
    seen: dict[tuple[str, ...], str] = {}
    for file in files:
        name = tuple(file.split("/")[-2:])
        if (earlier := seen.setdefault(name, file)) != file:
            raise InvalidInput(
                f"{file} and {earlier} have the same folder and name, so their samples would have the same ids; "
                "import one of them from a folder of another name, or name the id in a mapping",
                field="uri",
            )


def format_of(uri: str) -> str:
    """Return the format that the name tells. Raises `InvalidInput` where it tells none, as that of a folder."""
    path = (urlsplit(uri).path if "://" in uri else uri).lower()
    kind = format_by_name(path)
    if kind is None:
        name = path.rpartition("/")[2][:100] or "the uri"
        raise InvalidInput(
            f"the name of {name!r} does not say its format; give format, one of {', '.join(FORMATS)}",
            field="format",
            limit=list(FORMATS),
        )
    return kind


def _folder(uri: str) -> str:
    return uri if is_web(uri) else (uri.rpartition("/")[0] or ("/" if uri.startswith("/") else "."))
