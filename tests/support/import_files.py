"""Files of documents for the tests of imports, and what the readers make of them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexer.imports.mapping import Columns
from indexer.imports.reading import ReadDocument, read_documents, spans_of
from model.errors import InvalidInput
from model.records.base import Cut
from model.records.opened_file import OpenedFile

PNG = b"\x89PNG\r\n\x1a\n pixels"


def open_file(path: Path) -> OpenedFile:
    return OpenedFile(path.open("rb", buffering=0), path.name, path.stat().st_size, path.parent.name)


def read_whole(path: Path, kind: Any, mapping: dict[str, Any] | None = None) -> list[ReadDocument]:
    """Every document of a file; its end, where that is damage, as the last."""
    documents: list[ReadDocument] = []
    with open_file(path) as opened:
        try:
            documents.extend(read_documents(opened, kind, Columns.parse(mapping, kind)))
        except InvalidInput as error:
            documents.append(ReadDocument(path.name, error))
    return documents


def read_parts(path: Path, kind: Any, mapping: dict[str, Any] | None = None, rows: int = 2) -> list[ReadDocument]:
    """The same by parts, last part first, as several workers may read them."""
    columns = Columns.parse(mapping, kind)
    spans, damage = [], None
    with open_file(path) as opened:
        try:
            spans.extend(spans_of(opened, kind, columns, Cut(rows=rows)))
        except InvalidInput as error:
            damage = ReadDocument(path.name, error)
    parts: list[list[ReadDocument]] = []
    for span in reversed(spans):
        part: list[ReadDocument] = []
        with open_file(path) as opened:
            for document in read_documents(opened, kind, columns, span):
                part.append(document)
                if len(part) == span.count:
                    break
        assert len(part) == span.count
        parts.insert(0, part)
    return [document for part in parts for document in part] + ([damage] if damage else [])


def read_both(path: Path, kind: Any, mapping: dict[str, Any] | None = None, rows: int = 2) -> list[ReadDocument]:
    """The documents of a file, which are the same whether it is read at once or in parts."""
    whole, parts = read_whole(path, kind, mapping), read_parts(path, kind, mapping, rows)
    assert [_plain(document) for document in whole] == [_plain(document) for document in parts]
    return whole


def _plain(document: ReadDocument) -> Any:
    # A quote of CSV that is not closed is followed to the end of the part at most, so its message is another.
    is_csv = ".csv" in document.where
    fields = document.fields
    return document.where, fields if isinstance(fields, dict) else "fault" if is_csv else fields.detail


def fields_of(documents: Sequence[ReadDocument]) -> list[dict[str, Any]]:
    return [document.fields for document in documents if isinstance(document.fields, dict)]


def faults_of(documents: Sequence[ReadDocument]) -> list[str]:
    return [document.fields.detail for document in documents if isinstance(document.fields, InvalidInput)]


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
