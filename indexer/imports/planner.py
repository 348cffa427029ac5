"""Imports: files of documents somewhere else, cut into units that many workers read and that a restart continues at.

    uri, format, mapping ─► check ─► plan ─► Unit, Unit, … ─► read(unit) ─► (position, Incoming | Rejected), …

`check` is for the request: quick, it refuses wrong arguments before there is a job. `plan` reads JSONL, CSV and tar files once from end
to end and Parquet footers, so it is a worker's first step; one that was interrupted is begun again, for the same files give the same
units. `read` gives exactly `count` items whatever is wrong with the file by then, so indexed + skipped + failed = accepted. Reading a
unit twice is harmless: positions and ids are the same. The worker's side is `indexer.imports.importer`.

A compressed file (gz, zst) cannot be entered in the middle: it is one unit, and a restart begins it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from indexer.domain.documents import Incoming, Rejected
from indexer.imports.downloads import Copies, CopySettings
from indexer.imports.formats import lines, parquet, tar
from indexer.imports.formats.base import Cut, Opened, Record, Span, Wanted
from indexer.imports.locations import Places, is_web
from indexer.imports.mapping import FORMATS, Columns, Format, document, wanted
from indexer.imports.validation import DocumentBounds, incoming
from model.errors import InvalidInput, RetrievalError

_MAX_URI_CHARS = 4096
_SAMPLE = 1000  # records in which each field of a mapping must be met, else it is taken for a slip of the pen
_BY_NAME: tuple[Format, ...] = ("jsonl", "csv", "parquet", "webdataset")
_METADATA = "metadata"  # metadata.csv or .jsonl beside the images, as Hugging Face's `imagefolder` has it


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """`roots`: local folders and URL prefixes that may be imported from; none by default. https needs `copies`."""

    roots: tuple[str, ...] = ()
    copies: CopySettings | None = None
    cut: Cut = field(default_factory=Cut)
    bounds: DocumentBounds = field(default_factory=DocumentBounds)
    max_files: int = 10_000
    max_rows: int = 100_000_000
    timeout_s: float = 30.0  # of one request to a store


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


@dataclass(frozen=True, slots=True)
class _Kind:
    """How files of one format are read. `columns`: where a file says which fields it has."""

    suffixes: tuple[str, ...]
    spans: Callable[[Opened, Cut], Iterator[Span]]
    records: Callable[[Opened, Span | None, Wanted], Iterator[Record]]
    columns: Callable[[Opened], list[str]] | None = None


def _lenient(opened: Opened, span: Span | None, wanted: Wanted) -> Iterator[Record]:
    return lines.json_records(opened, span, wanted, loads=lines.lenient)


def _with_compressed(*suffixes: str) -> tuple[str, ...]:
    return tuple(suffix + packed for suffix in suffixes for packed in ("", ".gz", ".zst"))


_JSONL = _Kind(_with_compressed(".jsonl", ".ndjson"), lines.json_spans, lines.json_records)
_CSV = _Kind(_with_compressed(".csv"), lines.csv_spans, lines.csv_records, lines.columns_of)
_PARQUET = _Kind((".parquet",), parquet.spans, parquet.records, parquet.columns_of)
_TAR = _Kind((*_with_compressed(".tar"), ".tgz"), tar.spans, tar.records)
_PUBLISHED = _Kind(_with_compressed(".jsonl"), lines.json_spans, _lenient)
_KINDS: dict[Format, _Kind] = {"jsonl": _JSONL, "csv": _CSV, "parquet": _PARQUET, "webdataset": _TAR}


class Imports:
    """Blocking; for threads, of which many may use it at once."""

    def __init__(self, settings: ImportSettings, places: Places | None = None) -> None:
        self._settings = settings
        copies = None if settings.copies is None else Copies(settings.copies)
        self._fetched_anew: set[tuple[str, str]] = set()
        self._places = places or Places(settings.roots, copies=copies, timeout_s=settings.timeout_s)

    def check(
        self,
        uri: str,
        format: str,  # noqa: A002 - the wire's name
        mapping: Mapping[str, Any] | None = None,
        image_root: str | None = None,
    ) -> None:
        """What can be said at once. Raises `InvalidInput`, `Forbidden`, `NotFound`, `DependencyUnavailable`."""
        columns = self._checked(uri, format, mapping)
        if is_web(uri):
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
    ) -> Iterator[Unit]:
        """Units in the order of the files and of their records, found one at a time.

        Raises as `check` does, and `InvalidInput` for a file that cannot be read at all or lacks a field that the mapping names.
        """
        columns = self._checked(uri, format, mapping)
        kind = cast("Format", format)
        if is_web(uri):
            self._places.refresh(uri)
        first = 0
        for file in self._files(uri, kind):
            version = self._places.version(file)
            root = image_root or (columns.image_root if columns else None) or self._image_root(file, kind)
            with self._places.open(file) as opened:
                self._check_fields(opened, kind, columns)
            with self._places.open(file) as opened:
                for span in kind_of(kind, file).spans(opened, self._settings.cut):
                    yield Unit(file, kind, version, span, first, columns, root)
                    first += span.count
                    if first > self._settings.max_rows:
                        limit = self._settings.max_rows
                        raise InvalidInput(
                            f"{uri} has more than {limit} records", field="uri", value=first, limit=limit
                        )
        if first == 0:
            raise InvalidInput(f"{uri} has no records", field="uri", value=uri)

    def read(self, unit: Unit) -> Iterator[tuple[int, Incoming | Rejected]]:
        """`unit.count` items, positions in order. Of a file that is damaged or another than was planned, the rest is rejected.

        Raises `RetrievalError` where it is the store that does not answer: then the unit is to be tried again.
        """
        position, end = unit.first, unit.first + unit.count
        reason: RetrievalError = InvalidInput(f"{Path(unit.uri).name} ends before this record")
        try:
            for item in self._items(unit):
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
        """A copy of this machine may be of an earlier import: it is fetched anew then, once for each version that is wanted."""
        if self._places.version(unit.uri) == unit.version:
            return True
        wanted_version = unit.uri, unit.version
        if not is_web(unit.uri) or wanted_version in self._fetched_anew:
            return False
        self._fetched_anew.add(wanted_version)
        self._places.refresh(unit.uri)
        return self._places.version(unit.uri) == unit.version

    def _items(self, unit: Unit) -> Iterator[Incoming | Rejected]:
        if not self._is_as_planned(unit):
            raise InvalidInput(
                f"{Path(unit.uri).name} has changed since this import was planned; import it again", field="uri"
            )
        read_image = self._places.beside(unit.image_root or _folder(unit.uri))
        fields = wanted(unit.mapping, unit.format)
        with self._places.open(unit.uri) as opened:
            found = kind_of(unit.format, unit.uri).records(opened, unit.span, fields)
            for position, record in enumerate(found, unit.first):
                yield self._item(position, record, unit, read_image)

    def _item(
        self, position: int, record: Record, unit: Unit, read_image: Callable[[str], bytes]
    ) -> Incoming | Rejected:
        given: Any = None
        try:
            if isinstance(record.fields, RetrievalError):
                raise record.fields
            found = document(record.fields, unit.mapping, unit.format, record.where)
            given = found.get("id")
            return incoming(position, found, read_image, self._settings.bounds)
        except InvalidInput as error:
            shown = given[:512] if isinstance(given, str) else None
            detail = error.detail if error.detail.startswith(record.where) else f"{record.where}: {error.detail}"
            return Rejected(position, shown, error.code, detail)

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
        found = self._places.find(uri, suffixes_of(kind))
        if len(found) > self._settings.max_files:
            limit = self._settings.max_files
            raise InvalidInput(
                f"{uri} has {len(found)} files, limit is {limit}", field="uri", value=len(found), limit=limit
            )
        return found

    def _metadata_file(self, uri: str) -> str:
        found = self._places.find(uri, suffixes_of("images"))
        known = [file for file in found if file.rpartition("/")[2].partition(".")[0] == _METADATA]
        candidates = known or found
        if len(candidates) > 1:
            names = ", ".join(file.rpartition("/")[2] for file in candidates[:5])
            raise InvalidInput(
                f"{uri} has several CSV or JSONL files ({names}); name the one to read", field="uri", value=uri
            )
        return candidates[0]

    def _image_root(self, file: str, kind: Format) -> str | None:
        """M-BEIR's paths are relative to the folder that has `cand_pool`."""
        before, found, _ = file.rpartition("/cand_pool/")
        return before if kind == "mbeir" and found else None

    def _check_fields(self, opened: Opened, kind: Format, columns: Columns | None) -> None:
        """A misspelt field would lose its column silently: it must be in the schema, or somewhere in the first records.

        Metadata of formats without a schema may be rare, and are not asked for.
        """
        schema = kind_of(kind, opened.name).columns is not None
        named = {} if columns is None else {at: name for at, name in columns.named.items() if schema or "[" not in at}
        if not named:
            return
        known = _known(kind_of(kind, opened.name), opened, set(named.values()), wanted(columns, kind))
        for place, name in named.items():
            if name not in known:
                raise InvalidInput(
                    f"mapping.{place} names {name!r:.100}, which {opened.name} does not have; it has {', '.join(sorted(known)[:30])}",
                    field=f"mapping.{place}",
                    value=name,
                    limit=sorted(known)[:30],
                )


def _known(kind: _Kind, opened: Opened, searched: set[str], used: Wanted) -> set[str]:
    if kind.columns is not None:
        return set(kind.columns(opened))
    known: set[str] = set()
    for count, record in enumerate(kind.records(opened, None, used), 1):
        known |= set(record.fields) if isinstance(record.fields, dict) else set()
        if searched <= known or count == _SAMPLE:
            break
    return known


def kind_of(format: Format, uri: str) -> _Kind:  # noqa: A002
    if format == "images":
        return _CSV if uri.lower().endswith(_CSV.suffixes) else _JSONL
    if format in ("m2kr", "mbeir"):
        return _PARQUET if uri.lower().endswith(_PARQUET.suffixes) else _PUBLISHED
    return _KINDS[format]


def format_of(uri: str) -> str:
    """By the name. Raises `InvalidInput` where that does not say, as of a folder."""
    path = (urlsplit(uri).path if "://" in uri else uri).lower()
    found = next((kind for kind in _BY_NAME if path.endswith(tuple(suffixes_of(kind)))), None)
    if found is None:
        raise InvalidInput(
            f"the name of {path.rpartition('/')[2][:100] or 'the uri'!r} does not say its format; give format, one of {', '.join(FORMATS)}",
            field="format",
            limit=list(FORMATS),
        )
    return found


def suffixes_of(format: Format) -> Sequence[str]:  # noqa: A002
    if format in ("m2kr", "mbeir"):
        return (*_PUBLISHED.suffixes, *_PARQUET.suffixes)
    return (*_CSV.suffixes, *_JSONL.suffixes) if format == "images" else _KINDS[format].suffixes


def _folder(uri: str) -> str:
    return uri if is_web(uri) else (uri.rpartition("/")[0] or ("/" if uri.startswith("/") else "."))
