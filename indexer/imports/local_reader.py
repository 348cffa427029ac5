"""Documents out of local files, one at a time and in the wire form, without holding a file in memory; for `ret2 load`.

path ─► format by its name ─► `indexer.imports.reading` ─► {"id"?, "text"?, "image"?: {"url"} | {"base64"} | data URI,
"metadata"?}

Documents are checked with the model that the service has of them, but for the bounds that are its settings. What cannot
be read, or is no document, is reported in its place with where it stands, and the reading goes on. The service reads
the same files with the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from indexer.domain.incoming import check_document
from indexer.imports.locations import local_image
from indexer.imports.mapping import FORMATS, Columns, Format, wire, with_picture
from indexer.imports.photos import read_photos
from indexer.imports.reading import BY_NAME, ReadDocument, format_by_name, located, read_documents, suffixes_of
from model.errors import InvalidInput, RetrievalError
from model.records import parquet
from model.records.local_file import open_local

Item = tuple[str, dict[str, Any] | InvalidInput]


def read(
    path: Path,
    format: str | None = None,  # noqa: A002 - the wire's name
    mapping: Mapping[str, Any] | None = None,
    on_left_out: Callable[[str, str], None] = lambda reason, place: None,
) -> Iterator[Item]:
    """Yield (where, document) of every record: where as in messages, `docs.jsonl line 3`. Blank lines are not records.

    Of a folder of pictures without a table every picture is a record: `Pictures file 3`. An unreadable record comes as
    (where, InvalidInput), and so does the end of a file that breaks off. `on_left_out` is called with the reason and
    the place of each thing that a record has and its document has not, and of each file of a folder that is no picture.
    Raises `InvalidInput` when the whole file cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise InvalidInput(f"format is {format!r:.50}, allowed are {', '.join(FORMATS)}", field="format", value=format)
    kind: Format = format or _format(path)
    if kind == "photos":
        Columns.parse(mapping, kind)
        yield from _photos(path, on_left_out)
        return
    file = _metadata_file(path) if kind == "images" and path.is_dir() else path
    columns = Columns.parse(mapping, kind)
    folder = Path(columns.image_root) if columns and columns.image_root else file.parent
    with open_local(file) as source:
        has_begun = False
        try:
            for document in read_documents(source, kind, columns):
                has_begun = True
                yield document.where, _wire(document, folder)
                for reason in document.left_out:
                    on_left_out(reason, document.where)
        except InvalidInput as error:
            if not has_begun:
                raise
            yield file.name, located(file.name, error)


def _photos(folder: Path, on_left_out: Callable[[str, str], None]) -> Iterator[Item]:
    number = 0
    for photo in read_photos(folder):
        if photo.left_out is not None:
            on_left_out(photo.left_out, photo.name)
        elif isinstance(photo.document, InvalidInput):
            yield photo.name, photo.document
        elif photo.document is not None:
            number += 1
            yield f"{folder.name} file {number}", _wire(ReadDocument(photo.name, photo.document), folder)


def _wire(document: ReadDocument, folder: Path) -> dict[str, Any] | InvalidInput:
    if isinstance(document.fields, InvalidInput):
        return document.fields
    try:
        fields = with_picture(document.fields, lambda name: local_image(name, folder))
        check_document(fields)
        return wire(fields)
    except RetrievalError as error:
        return located(document.where, error)
    except Exception as error:  # noqa: BLE001 - one record harms itself alone, whatever it raises
        return InvalidInput(f"{document.where} cannot be read: {type(error).__name__}")


def count(path: Path) -> int | None:
    """Return how many records a file holds, where that is known without reading it all; for progress bars."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    with open_local(path) as source:
        return parquet.count(source)


def is_photos(path: Path, format: str | None) -> bool:  # noqa: A002
    """Return whether a path is a folder of pictures that no table names. Raises `InvalidInput`."""
    return (format or _format(path)) == "photos"


def _format(path: Path) -> Format:
    if path.is_dir():
        return "images" if _tables(path) else "photos"
    kind = format_by_name(path.name)
    if kind is None:
        readable = ", ".join(suffix for kind in BY_NAME for suffix in suffixes_of(kind))
        raise InvalidInput(f"{path.name} is of type {path.suffix!r}, readable are {readable}, and a folder of images")
    return kind


def _metadata_file(folder: Path) -> Path:
    tables = _tables(folder)
    if len(tables) != 1:
        raise InvalidInput(
            f"{folder} must have one CSV or JSONL file that names its images, it has {len(tables)}; "
            "--format photos loads its pictures without one"
        )
    return folder / tables[0]


def _tables(folder: Path) -> list[str]:
    """Return the names of the files that may name the images of a folder: those called metadata, else all of them."""
    names = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(suffixes_of("images")))
    return [name for name in names if name.partition(".")[0] == "metadata"] or names
