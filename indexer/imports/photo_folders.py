"""Folders of pictures as the service imports them, from a local disk or a store: listed once, and read by the places in
the list.

A file is taken for a picture by its name: the first bytes of every file of a store would cost a request each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from indexer.imports.locations import Place, Places, ReadImage, is_web
from indexer.imports.photos import (
    HIDDEN,
    MAX_FILES,
    NO_PICTURE,
    RAW,
    is_named_picture,
    is_named_raw,
    misnamed,
    photo_document,
    walk,
)
from indexer.imports.reading import ReadDocument, located
from indexer.object_storage import StoreErrors, is_local
from model.errors import InvalidInput, NotFound
from model.images.formats import image_format
from model.records.base import Cut, Span

UNREADABLE = "a file or folder that cannot be read, or whose name is not UTF-8"


@dataclass(frozen=True, slots=True)
class PhotoList:
    """The pictures of a folder, by the names inside it and in their order. `left_out` has, by the place of the picture
    that follows, why files are not among them."""

    names: list[str]
    left_out: dict[int, list[str]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Changes when a picture comes or goes, not when one is changed."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode() + b"\0")
        return f"{len(self.names)}:{digest.hexdigest()[:32]}"

    def spans(self, cut: Cut) -> Iterator[Span]:
        for start in range(0, len(self.names), cut.rows):
            end = min(start + cut.rows, len(self.names))
            yield Span(start, end, end - start, number=start + 1)


def check_folder(places: Places, uri: str) -> None:
    """Raise `InvalidInput` for anything but a folder, and what `Places.place` raises."""
    _folder(places, uri)


def list_photos(places: Places, uri: str) -> PhotoList:
    """Return the pictures of a folder and of the folders in it. Raises `InvalidInput` for more than `MAX_FILES`
    files."""
    place = _folder(places, uri)
    names: list[str] = []
    left_out: dict[int, list[str]] = {}
    for count, (name, reason) in enumerate(_files(place), 1):
        if count > MAX_FILES:
            raise InvalidInput(
                f"{place.display_name} has more than {MAX_FILES:,} files: import the folders in it one by one",
                field="uri",
                limit=MAX_FILES,
            )
        if reason is None:
            names.append(name)
        else:
            left_out.setdefault(len(names), []).append(reason)
    if names and (last := left_out.pop(len(names), None)):
        # No picture follows the last ones: they are said with the last picture.
        left_out.setdefault(len(names) - 1, []).extend(last)
    return PhotoList(names, left_out)


def read_photo(name: str, read_file: ReadImage, left_out: Sequence[str]) -> ReadDocument:
    """Return the document of a picture in a folder. Raises `RetrievalError` where it is the store that does not
    answer."""
    try:
        data = read_file(name)
        if image_format(data) is None:
            raise misnamed(name)
        return ReadDocument(name, photo_document(name, data), tuple(left_out))
    except InvalidInput as error:
        return ReadDocument(name, located(name, error), tuple(left_out))


def _folder(places: Places, uri: str) -> Place:
    if is_web(uri) or "*" in uri:
        raise InvalidInput(
            f"uri {uri!r:.200} is not a folder of a disk or of a store, which format photos needs", field="uri"
        )
    place = places.place(uri)
    with StoreErrors(place.display_name):
        if not place.files.exists(place.path):
            raise NotFound(f"{place.display_name} is not there", field="uri")
        if not place.files.isdir(place.path):
            raise InvalidInput(f"{place.display_name} is not a folder, which format photos needs", field="uri")
    return place


def _files(place: Place) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each file, and why it is not a picture."""
    if is_local(place.files):
        for file in walk(Path(place.path)):
            yield file.name, UNREADABLE if file.document is not None else file.left_out or _reason(file.name)
        return
    with StoreErrors(place.display_name):
        for folder, folders, files in place.files.walk(place.path):
            folders.sort()
            prefix = str(folder).removeprefix(place.path).strip("/")
            for file_name in sorted(files):
                name = f"{prefix}/{file_name}".lstrip("/")
                yield name, HIDDEN if name.startswith(".") or "/." in name else _reason(name)


def _reason(name: str) -> str | None:
    suffix = PurePosixPath(name).suffix.lower()
    return RAW if is_named_raw(suffix) else None if is_named_picture(suffix) else NO_PICTURE
