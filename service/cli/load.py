"""`ret2 load`: posts the documents of files that only the caller can read, and reports what became of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from indexer.imports import local_reader
from indexer.imports.mapping import FORMATS
from indexer.imports.photos import FIELDS
from model.errors import Forbidden, InvalidInput, NotFound
from service.cli.flags import json_object
from service.cli.tables import Failed, LeftOut, failures_table, print_left_out, progress_bar
from service.client.client import DEFAULT_URL, Client
from service.client.types import Loaded

# A load outlives a restart of the service and waits while the queue is full.
_PATIENCE_S = 600.0


def load(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSONL (.gz, .zst), CSV, Parquet, WebDataset tar, or a folder of pictures, with or without a table"
        ),
    ],
    collection: Annotated[str, typer.Option("--collection", "-c", help="made if it is not there yet")],
    url: Annotated[str, typer.Option(envvar="RET2_URL", help="address of the service")] = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option(envvar="RET2_API_KEY", help="better given as variable than as flag")
    ] = None,
    format: Annotated[  # noqa: A002 - the flag's name
        str | None, typer.Option(help=f"unset: by the file's name. One of {', '.join(FORMATS)}")
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(help='which field is what: {"text": "caption", "image": "jpg", "id": "key", "metadata": []}'),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="of a new collection's words, such as english; unset: words as they are")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="of a new collection, by its name in `ret2 models served`; unset: the default")
    ] = None,
    passages: Annotated[
        str | None, typer.Option(help='how a new collection cuts long texts: {"tokens": 64, "overlap": 8}')
    ] = None,
) -> None:
    """Index the documents of files. Documents that are there unchanged are skipped, so a broken-off load is repeated;
    those that a later one of the same id replaces at once are counted with them.

    Every picture of a folder without a table is a document: its id is its path in the folder.
    """
    has_photos = _has_photos(files, format)
    left_out = LeftOut()
    read = partial(
        local_reader.read, format=format, mapping=json_object(mapping, "--mapping"), on_left_out=left_out.add
    )
    console = Console()
    failures: list[Failed] = []
    indexed = skipped = unfinished = foreign = truncated = 0
    with Client(url, api_key=api_key, attempts=1000, give_up_after_s=_PATIENCE_S) as client, progress_bar() as bar:
        options = {"language": language, "model": model, "passages": json_object(passages, "--passages")}
        fingerprint = _create(client, collection, options, has_photos=has_photos)
        for file in files:
            reading = _Reading(file, read, fingerprint)
            task = bar.add_task(file.name, total=local_reader.count(file))
            on_progress = partial(_advance, bar, task)
            loaded = client.load(collection, reading.documents(), on_progress=on_progress)
            bar.update(task, total=loaded.sent, completed=loaded.sent)
            indexed, skipped, unfinished = indexed + loaded.indexed, skipped + loaded.skipped, unfinished + loaded.left
            truncated += loaded.truncated
            failures += reading.failures(loaded)
            foreign += reading.foreign
    console.print(
        f"{indexed} indexed, {skipped} skipped, {len(failures)} failed"
        + (f", {unfinished} not done" if unfinished else "")
        + (f"; of {truncated} a part of the text has no embedding, for it is too long" if truncated else "")
    )
    if foreign:
        console.print(f"{foreign} documents came with embeddings of another model, and were embedded again")
    print_left_out(console, left_out.counts, left_out.places)
    if failures:
        console.print(failures_table(failures))
    if failures or unfinished:
        raise typer.Exit(1)


def _has_photos(files: list[Path], format: str | None) -> bool:  # noqa: A002
    """Return whether a folder of pictures without a table is among the files. Raises `InvalidInput` if there is
    anything beside it, because the ids of two such folders could be the same."""
    photos = [file for file in files if local_reader.is_photos(file, format)]
    if len(photos) > 1:
        raise InvalidInput(
            f"{photos[0]} and {photos[1]} are folders of pictures, whose ids are paths inside them and could be the "
            "same: load them one at a time into collections of their own, or the folder that they lie in"
        )
    return bool(photos)


def _create(client: Client, collection: str, options: Mapping[str, Any], *, has_photos: bool) -> str | None:
    """Make the collection if it is not there, and return the fingerprint of its model where the key may know it.

    A new one for photographs can be filtered by what is known of them.
    """
    settings: dict[str, Any] = {name: value for name, value in options.items() if value}
    if has_photos:
        try:
            client.collection(collection)
        except NotFound:
            settings["indexes"] = FIELDS
    with suppress(Forbidden):  # a key that may write but makes no collections: this one is there
        return client.create_collection(collection, **settings).fingerprint
    return None


def _advance(bar: Progress, task: TaskID, done: int) -> None:
    bar.update(task, completed=done)


class _Reading:
    """One file being loaded: posts its good documents and reports answers by the file's own lines."""

    def __init__(
        self, file: Path, read: Callable[[Path], Iterator[local_reader.Item]], fingerprint: str | None = None
    ) -> None:
        self._file, self._read, self._fingerprint = file, read, fingerprint
        # Documents that came with an embedding of another model than that of this fingerprint.
        self.foreign = 0
        self._unreadable: list[Failed] = []
        self._unit = ""  # "docs.jsonl line"
        self._numbers = array("Q")  # of each document that went out, 8 bytes for each however many there are

    def documents(self) -> Iterator[dict[str, Any]]:
        for where, document in self._read(self._file):
            if isinstance(document, InvalidInput):
                self._unreadable.append((self._file.name, document.code, document.detail))
            else:
                self._unit, _, number = where.rpartition(" ")
                self._numbers.append(int(number))
                self.foreign += document.get("fingerprint", self._fingerprint) != self._fingerprint
                yield document

    def failures(self, loaded: Loaded) -> list[Failed]:
        """Return (where, code, detail) of every document of the file that is not indexed."""
        rejected = [
            (self._where(rejection.position, rejection.id), rejection.code, rejection.detail)
            for rejection in loaded.rejected
        ]
        failed = [
            (self._where(failure.position, failure.id), failure.code, failure.detail) for failure in loaded.failures
        ]
        return self._unreadable + rejected + failed

    def _where(self, position: int, document_id: str | None) -> str:
        return f"{self._unit} {self._numbers[position]} {document_id or ''}".rstrip()
