"""`ret2 export`: writes the documents of a collection to a file that `ret2 load` takes back."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import orjson
import typer
from rich.console import Console

from model.errors import InvalidInput
from model.images.formats import image_format
from service.cli.flags import json_object
from service.cli.tables import progress_bar
from service.client.client import DEFAULT_URL, Client
from service.client.types import Document

# Rows of one group of a Parquet file.
_GROUP_ROWS = 5_000
# An export outlives a restart of the service.
_PATIENCE_S = 600.0


def export(
    collection: Annotated[str, typer.Argument(help="the collection, or an alias of it")],
    file: Annotated[Path, typer.Argument(help="a new file: .jsonl or .parquet")],
    filter: Annotated[  # noqa: A002 - the flag's name
        str | None, typer.Option(help='which documents, by metadata: {"field": "region", "equals": "Europe"}')
    ] = None,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="with embeddings, so that a load does not embed again")
    ] = False,
    images: Annotated[
        Path | None, typer.Option(help="with the image files, in this folder, which lies beside the file")
    ] = None,
    url: Annotated[str, typer.Option(envvar="RET2_URL", help="address of the service")] = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option(envvar="RET2_API_KEY", help="better given as variable than as flag")
    ] = None,
) -> None:
    """Write the documents of a collection to a file, in any number and without a model."""
    folder = None if images is None else _beside(file, images)
    left_out: Counter[str] = Counter()
    with (
        Client(url, api_key=api_key, attempts=1000, give_up_after_s=_PATIENCE_S) as client,
        progress_bar() as bar,
        _writer(file) as writer,
    ):
        condition = json_object(filter, "--filter")
        fingerprint = client.collection(collection).fingerprint
        task = bar.add_task(collection, total=client.count(collection, filter=condition))
        pictures = None if folder is None else _Pictures(client, collection, folder, file.parent)
        count = 0
        for document in client.scroll(collection, filter=condition, with_vector=vectors):
            paths = [] if pictures is None else pictures.save(document)
            is_whole = document.image_url is None or bool(paths)
            left_out["image: --images FOLDER exports it"] += not is_whole
            record = _record(document, paths)
            if vectors and not is_whole:
                left_out["vector: it is of the image too, --images FOLDER exports both"] += 1
            elif vectors:
                record |= _embedding(document) | {"fingerprint": fingerprint}
            writer.write(record)
            count += 1
            bar.update(task, completed=count)
    console = Console()
    console.print(f"{count} documents in {file}", markup=False, soft_wrap=True)
    for reason, number in (+left_out).items():
        console.print(f"left out of {number} documents: {reason}", markup=False, soft_wrap=True)


def _beside(file: Path, images: Path) -> Path:
    """Return the folder of the images. `ret2 load` reads images below the folder of the file alone."""
    if not images.resolve().is_relative_to(file.parent.resolve()):
        raise InvalidInput(f"--images {images} is not below the folder of {file}, where `ret2 load` looks for images")
    images.mkdir(parents=True, exist_ok=True)
    return images


def _embedding(document: Document) -> dict[str, Any]:
    """Return the embedding of a document; of several parts that of each, and where each stands in the text."""
    if document.parts is None:
        return {"vector": document.vector}
    vectors = [value for part in document.parts for value in part.vector or ()]
    return {"vector": vectors, "parts": [[part.start, part.end] for part in document.parts]}


def _record(document: Document, images: list[str]) -> dict[str, Any]:
    """Return a document as a load takes it, without its embedding."""
    image, further = next(iter(images), None), images[1:] or None
    record: dict[str, Any] = {"id": document.id, "text": document.text, "image": image, "images": further}
    record["metadata"] = document.metadata
    return {name: value for name, value in record.items() if value is not None}


class _Pictures:
    """Saves images under their digests, each once."""

    def __init__(self, client: Client, collection: str, folder: Path, base: Path) -> None:
        self._client, self._collection, self._folder, self._base = client, collection, folder, base
        self._saved: dict[str, str] = {}

    def save(self, document: Document) -> list[str]:
        """Save the images of a document, and return their paths as the file names them."""
        urls = document.image_urls or ([] if document.image_url is None else [document.image_url])
        return [self._save(document.id, url, number) for number, url in enumerate(urls)]

    def _save(self, document_id: str, url: str, number: int) -> str:
        digest = url.partition("?v=")[2].partition("&")[0]
        if digest not in self._saved:
            data = self._client.image(self._collection, document_id, number=number)
            file_format = image_format(data)
            path = self._folder / f"{digest}.{'bin' if file_format is None else file_format.pillow.lower()}"
            path.write_bytes(data)
            self._saved[digest] = Path(os.path.relpath(path, self._base)).as_posix()
        return self._saved[digest]


# --- files


class _Writer(Protocol):
    def write(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class _JsonLines:
    """A line for each document; embeddings as base64, a fifth of their digits."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, record: Mapping[str, Any]) -> None:
        if "vector" in record:
            values = np.asarray(record["vector"], "<f4").tobytes()
            record = {**record, "vector": base64.b64encode(values).decode()}
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """A row for each document; metadata as JSON, because one column has one type."""

    def __init__(self, path: Path) -> None:
        # Here, so that the other commands start without it.
        import pyarrow as pa
        from pyarrow import parquet

        text = pa.string()
        fields = [(name, text) for name in ("id", "text", "image", "metadata")]
        fields += [("images", pa.list_(text)), ("vector", pa.list_(pa.float32())), ("fingerprint", text)]
        fields += [("parts", pa.list_(pa.list_(pa.int64())))]
        self._table, self._schema = pa.Table, pa.schema(fields)
        self._file = parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, record: Mapping[str, Any]) -> None:
        self._rows.append({**record, "metadata": orjson.dumps(record["metadata"]).decode()})
        if len(self._rows) == _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(self._table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._file.close()


_FORMATS: dict[str, Callable[[Path], _Writer]] = {".jsonl": _JsonLines, ".parquet": _Parquet}


@contextmanager
def _writer(file: Path) -> Iterator[_Writer]:
    """Write a file that appears whole, or not at all."""
    kind = _FORMATS.get(file.suffix.lower())
    if kind is None:
        raise InvalidInput(f"{file.name} is of type {file.suffix!r}, an export is .jsonl or .parquet", field="file")
    if file.exists():
        raise InvalidInput(f"{file} is there already: name another file, or remove it", field="file")
    part = file.with_name(f".{file.name}.part")
    try:
        writer = kind(part)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}", field="file") from error
    try:
        try:
            yield writer
        finally:
            writer.close()
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
