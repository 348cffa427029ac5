"""A folder of pictures as documents, without a table that names them: one document for each file that is an image.

The id is the path inside the folder; the metadata are the folder, the size in pixels, and when and with what the
picture was taken. Files are recognised by their first bytes, not by their names. Links are not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from model.errors import InvalidInput, TooLarge
from model.images.description import describe_picture
from model.images.formats import image_format
from model.records.base import MAX_IMAGE_BYTES

# What a collection that is made for photographs can be filtered by.
FIELDS = {"folder": "keyword", "taken": "datetime", "camera": "keyword", "width": "number", "height": "number"}

MAX_FILES = 1_000_000
MAX_DEPTH = 64
# Enough to recognise every format.
_HEAD_BYTES = 512
_PICTURE_SUFFIXES = frozenset(
    [".avif", ".bmp", ".gif", ".heic", ".heif", ".jpe", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff", ".webp"]
)
# Some begin like a TIFF, which they are not: their pixels are those of the sensor.
_RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".nef"}
    | {".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw", ".x3f"}
)

HIDDEN = "hidden (the name begins with a dot)"
LINK = "a link, which is not followed"
SPECIAL = "neither a file nor a folder"
RAW = "a camera's raw file, which cannot be read: export it as JPEG"
NO_PICTURE = "not a picture"


@dataclass(frozen=True, slots=True)
class Photo:
    """A file of the folder by its path inside it: the document it makes, why it makes none, or why it was left out."""

    name: str
    document: dict[str, Any] | InvalidInput | None = None
    left_out: str | None = None


def read_photos(folder: Path) -> Iterator[Photo]:
    """Yield every file of a folder and of the folders in it, in the order of their names, hidden ones and links as left
    out.

    A file that cannot be read fails alone. Raises `InvalidInput` where `folder` is none, cannot be listed, or has more
    than `MAX_FILES` files.
    """
    for count, file in enumerate(walk(folder), 1):
        if count > MAX_FILES:
            raise InvalidInput(
                f"{folder} has more than {MAX_FILES:,} files: load the folders in it one by one",
                field="files",
                limit=MAX_FILES,
            )
        yield _photo(folder, file) if file.left_out is None and file.document is None else file


def photo_document(name: str, data: bytes) -> dict[str, Any]:
    """Return the document of a picture: its id, its bytes, and as metadata what its header says."""
    parent = PurePosixPath(name).parent.as_posix()
    return {"id": name, "image": data, "metadata": {"folder": parent, **describe_picture(data)}}


def is_named_picture(suffix: str) -> bool:
    """Return whether the names of pictures end so."""
    return suffix in _PICTURE_SUFFIXES


def is_named_raw(suffix: str) -> bool:
    """Return whether the names of cameras' raw files end so."""
    return suffix in _RAW_SUFFIXES


def misnamed(name: str) -> InvalidInput:
    return InvalidInput(f"{name} is not the picture that its name says")


def walk(folder: Path) -> Iterator[Photo]:
    """Yield what lies in a folder, folders before the files that follow them in order. Holds the names of one folder at
    each depth."""
    levels = [iter(_entries(folder, ""))]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif isinstance(entry, Photo):
            yield entry
        elif len(levels) >= MAX_DEPTH:
            yield Photo(entry, InvalidInput(f"{entry} lies more than {MAX_DEPTH} folders deep: load it by itself"))
        else:
            try:
                levels.append(iter(_entries(folder, f"{entry}/")))
            except InvalidInput as error:
                yield Photo(entry, error)


def _entries(folder: Path, prefix: str) -> list[Photo | str]:
    """Return the files of a folder, and the names of the folders in it, by the names inside the whole."""
    try:
        with os.scandir(folder / prefix) as listing:
            entries = sorted(islice(listing, MAX_FILES + 1), key=lambda entry: entry.name)
    except OSError as error:
        place = prefix.rstrip("/") or folder
        raise InvalidInput(f"the folder {place} cannot be listed: {error.strerror or type(error).__name__}") from error
    return [_entry(entry, f"{prefix}{entry.name}") for entry in entries]


def _entry(entry: os.DirEntry[str], name: str) -> Photo | str:
    try:
        name.encode()
    except UnicodeEncodeError:
        escaped = os.fsencode(name).decode(errors="backslashreplace")
        return Photo(escaped, InvalidInput(f"{escaped}: the name is not UTF-8; rename it"))
    if entry.name.startswith("."):
        return Photo(name, left_out=HIDDEN)
    try:
        if entry.is_symlink():
            return Photo(name, left_out=LINK)
        if entry.is_dir(follow_symlinks=False):
            return name
        is_file = entry.is_file(follow_symlinks=False)
    except OSError as error:
        return Photo(name, _unreadable(name, error))
    return Photo(name) if is_file else Photo(name, left_out=SPECIAL)


def _photo(folder: Path, file: Photo) -> Photo:
    suffix = PurePosixPath(file.name).suffix.lower()
    if is_named_raw(suffix):
        return Photo(file.name, left_out=RAW)
    try:
        data = _picture(folder / file.name, file.name)
    except OSError as error:
        return Photo(file.name, _unreadable(file.name, error))
    except InvalidInput as error:
        return Photo(file.name, error)
    if data is not None:
        return Photo(file.name, photo_document(file.name, data))
    if is_named_picture(suffix):
        return Photo(file.name, misnamed(file.name))
    return Photo(file.name, left_out=NO_PICTURE)


def _picture(path: Path, name: str) -> bytes | None:
    """Return the bytes of an image file, None of another. A link that took the place of the file is not followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        head = file.read(_HEAD_BYTES)
        if not stat.S_ISREG(status.st_mode) or image_format(head) is None:
            return None
        if status.st_size > MAX_IMAGE_BYTES:
            raise TooLarge(
                f"{name} has {status.st_size} bytes, limit is {MAX_IMAGE_BYTES}",
                field="image",
                value=status.st_size,
                limit=MAX_IMAGE_BYTES,
            )
        return head + file.read(MAX_IMAGE_BYTES)


def _unreadable(name: str, error: OSError) -> InvalidInput:
    return InvalidInput(f"{name} cannot be read: {error.strerror or type(error).__name__}")
