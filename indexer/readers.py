"""Documents out of JSONL and Parquet files, one at a time and in the wire form, without holding a file in memory.

    path ─► `_lines` | `_rows`  ─►  {"id"?, "text"?, "image"?: {"url"} | {"base64"} | data URI, "metadata"?}

It only reads: whether a document is acceptable is the service's to say. What cannot be read at all is reported in its
place with where it stands, and the reading goes on. Another format is one more line in `_READERS`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import InvalidInput, TooLarge

Item = tuple[int, dict[str, Any] | InvalidInput]

MAX_LINE_BYTES = 64 * 2**20  # a document at the default bounds: a 20 MiB image in base64 and 100,000 characters of text
MAX_IMAGE_BYTES = 64 * 2**20  # of a file named by a document; the service has its own, lower bound
_ROWS_PER_BATCH = 64  # Parquet rows decoded at once: 64 photographs are some hundred MB at most
_FIELDS = ("id", "text", "image", "metadata")


def read(path: Path) -> Iterator[Item]:
    """(position, document) of every record; position counts from 0, blank lines are not records.

    An unreadable record comes as (position, InvalidInput). Raises `InvalidInput` when the whole file cannot be read.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{path.name} is of type {path.suffix!r}, readable are {', '.join(_READERS)}")
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file")
    yield from reader(path)


def count(path: Path) -> int | None:
    """How many records a file holds, where that is known without reading it all; for progress bars."""
    return pq.read_metadata(path).num_rows if path.suffix.lower() == ".parquet" and path.is_file() else None


def _lines(path: Path) -> Iterator[Item]:
    position = 0
    with path.open("rb") as file:
        for number, line in _bounded_lines(file):
            where = f"{path.name} line {number}"
            if line is None:
                too_large = TooLarge(f"{where} is over {MAX_LINE_BYTES} bytes", limit=MAX_LINE_BYTES)
                yield position, too_large
            elif stripped := line.removeprefix(b"\xef\xbb\xbf").strip():
                yield position, _line(stripped, where, path.parent)
            else:
                continue
            position += 1


def _bounded_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(line number from 1, line); None stands for a line that is longer than may be held, which is skipped over."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) <= MAX_LINE_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield number, None


def _line(line: bytes, where: str, folder: Path) -> dict[str, Any] | InvalidInput:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return InvalidInput(f"{where} is not JSON: {error}")
    if not isinstance(record, dict):
        return InvalidInput(f"{where} is a JSON {type(record).__name__}, a document is an object")
    return _with_image(record, where, folder)


def _rows(path: Path) -> Iterator[Item]:
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            position = 0
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, use_threads=False):
                for row in batch.to_pylist():
                    yield position, _row(row, f"{path.name} row {position}", path.parent)
                    position += 1
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path.name} is not a readable Parquet file: {error}") from error


def _row(row: dict[str, Any], where: str, folder: Path) -> dict[str, Any] | InvalidInput:
    """Columns id, text, image and metadata by name. Without a metadata column, the other columns are the metadata."""
    document = {name: row[name] for name in _FIELDS if row.get(name) is not None}
    if "metadata" not in row:
        document["metadata"] = {name: value for name, value in row.items() if name not in _FIELDS and value is not None}
    try:
        document["metadata"] = _metadata(document.get("metadata", {}))
    except (orjson.JSONDecodeError, TypeError, ValueError) as error:
        return InvalidInput(f"{where} has metadata that is not a JSON object: {error}")
    if not document["metadata"]:
        del document["metadata"]
    if not isinstance(document.get("id", ""), str):
        document["id"] = str(document["id"])
    return _with_image(document, where, folder)


def _metadata(value: Any) -> dict[str, Any]:
    """A struct, a map (Arrow gives its pairs) or a JSON string, as what JSON can hold: dates become ISO strings."""
    if isinstance(value, str | bytes):
        value = orjson.loads(value)
    elif isinstance(value, list):
        value = dict(value)
    plain = orjson.loads(orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY))
    if not isinstance(plain, dict):
        raise TypeError(f"it is a {type(plain).__name__}")
    return plain


def _with_image(document: dict[str, Any], where: str, folder: Path) -> dict[str, Any] | InvalidInput:
    """The document with its image in a wire form: bytes and files become base64, the rest is left to the service.

    An image is bytes, {"bytes", "path"} (as Hugging Face data sets have it), a data URI, a URL, or a path that is
    relative to the file and stays in its folder: a file of documents must not be able to name any file of the machine.
    """
    image = document.get("image")
    if isinstance(image, dict) and {"bytes", "path"} & image.keys():
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and not image.startswith(("data:", "http://", "https://")):
        try:
            image = _file(image, folder)
        except InvalidInput as error:
            return type(error)(f"{where}: {error.detail}")
    if isinstance(image, bytes):
        image = {"base64": base64.b64encode(image).decode("ascii")}
    elif isinstance(image, str) and not image.startswith("data:"):
        image = {"url": image}
    return {**document, "image": image} if image is not None else {k: v for k, v in document.items() if k != "image"}


def _file(name: str, folder: Path) -> bytes:
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise InvalidInput(f"image {name!r:.200} is outside the folder of the file")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            size = path.stat().st_size
            raise TooLarge(f"image {name!r:.200} has {size} bytes, limit is {MAX_IMAGE_BYTES}", limit=MAX_IMAGE_BYTES)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidInput(f"image {name!r:.200} cannot be read: {type(error).__name__}") from error


_READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".parquet": _rows,
}
