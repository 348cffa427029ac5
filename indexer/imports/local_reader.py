"""Documents out of local files, one at a time and in the wire form, without holding a file in memory; for `ret2 load`.

    path ─► format by its name ─► `indexer.imports.formats` ─► {"id"?, "text"?, "image"?: {"url"} | {"base64"} | data URI, "metadata"?}

It only reads: whether a document is acceptable is the service's to say. What cannot be read at all is reported in its
place with where it stands, and the reading goes on. The service reads the same formats by itself with `indexer.imports`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from indexer.imports.formats import parquet
from indexer.imports.formats.base import Opened, opened
from indexer.imports.locations import local_image
from indexer.imports.mapping import FORMATS, Columns, Format, document, wanted, wire
from indexer.imports.planner import kind_of, suffixes_of
from model.errors import InvalidInput, RetrievalError

Item = tuple[str, dict[str, Any] | InvalidInput]

_BY_NAME: tuple[Format, ...] = ("jsonl", "csv", "parquet", "webdataset")
_BUFFER_BYTES = 2**20


def read(path: Path, format: str | None = None, mapping: Mapping[str, Any] | None = None) -> Iterator[Item]:  # noqa: A002
    """(where, document) of every record: where as in messages, `docs.jsonl line 3`. Blank lines are not records.

    An unreadable record comes as (where, InvalidInput). Raises `InvalidInput` when the whole file cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise InvalidInput(f"format is {format!r:.50}, allowed are {', '.join(FORMATS)}", field="format", value=format)
    kind = format or _format(path)
    file = _metadata_file(path) if kind == "images" and path.is_dir() else path
    columns = Columns.parse(mapping, kind)
    folder = Path(columns.image_root) if columns and columns.image_root else file.parent
    with _opened(file) as source:
        for record in kind_of(kind, file.name).records(source, None, wanted(columns, kind)):
            try:
                if isinstance(record.fields, RetrievalError):
                    raise record.fields
                found = document(record.fields, columns, kind, record.where)
                yield record.where, wire(found, lambda name: local_image(name, folder))
            except InvalidInput as error:
                detail = error.detail if error.detail.startswith(record.where) else f"{record.where}: {error.detail}"
                yield record.where, type(error)(detail)


def count(path: Path) -> int | None:
    """How many records a file holds, where that is known without reading it all; for progress bars."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    with _opened(path) as source:
        return parquet.count(source)


def _format(path: Path) -> Format:
    if path.is_dir():
        return "images"
    found = next((kind for kind in _BY_NAME if path.name.lower().endswith(tuple(suffixes_of(kind)))), None)
    if found is None:
        readable = ", ".join(suffix for kind in _BY_NAME for suffix in suffixes_of(kind))
        raise InvalidInput(f"{path.name} is of type {path.suffix!r}, readable are {readable}, and a folder of images")
    return found


def _metadata_file(folder: Path) -> Path:
    names = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(tuple(suffixes_of("images"))))
    known = [name for name in names if name.partition(".")[0] == "metadata"]
    if len(known or names) != 1:
        raise InvalidInput(
            f"{folder} must have one CSV or JSONL file that names its images, it has {len(known or names)}"
        )
    return folder / (known or names)[0]


def _opened(path: Path) -> Opened:
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file")
    try:
        raw = path.open("rb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or type(error).__name__}") from error
    return opened(raw, path.name, path.stat().st_size)
