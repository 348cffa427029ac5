"""A user's own (query, document) pairs out of JSONL or Parquet: what `ret2 train --data` learns from. No torch.

{"query": {"text"?, "image"?}, "document": {"id"?, "text"?, "image"?}, "negatives"?: [{"id"?, "text"?, "image"?}],
"label"?}

An image is a path relative to the file, a data URI, base64, or bytes. A bad row is told with its place and reason and
left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import InvalidInput, TooLarge
from model.images.decoding import decode_image
from model.images.sources import is_data_uri, is_web_address, read_base64, read_data_uri
from model.preprocess import normalise_text
from model.records.local_file import read_local
from model.types import Limits

Row = tuple[str | None, str | None]  # text, key of an image
Report = Callable[[str, int, int], None]  # stage, done, of

_LIMITS = Limits()
_CHECK_PX = 224  # a JPEG is checked at a part of its size, which still reads all of the file
_LEAST_BASE64 = 64  # characters; no image is shorter, and a path that does not exist should be called that


@dataclass(frozen=True, slots=True)
class Example:
    """One pair. `label` names what the query asks for: every document that has it anywhere in the data is a right
    answer."""

    query: Row
    document: Row
    key: str  # of the document: its id, or a digest of its content
    label: str
    negatives: tuple[tuple[str, Row], ...] = ()  # key and content


@dataclass(frozen=True, slots=True)
class Fault:
    where: str
    reason: str


class Images(Mapping[str, bytes]):
    """Encoded images by key.

    Files stay on the disk until they are asked for; what a row holds itself stays in memory.
    """

    def __init__(self) -> None:
        self._places: dict[str, Path | bytes] = {}

    def add_file(self, path: Path, name: str) -> str:
        """Add a file. `name` is its path in the data, so that its key stays the same when the data is moved."""
        key = f"file:{name}"
        return self._add(key if self._places.get(key, path) == path else f"file:{path}", path)

    def add_bytes(self, data: bytes) -> str:
        return self._add(f"data:{hashlib.sha256(data).hexdigest()}", data)

    def only(self, keys: Sequence[str]) -> Images:
        chosen = Images()
        chosen._places = {key: self._places[key] for key in keys}
        return chosen

    def _add(self, key: str, place: Path | bytes) -> str:
        self._places.setdefault(key, place)
        return key

    def __getitem__(self, key: str) -> bytes:
        place = self._places[key]
        if isinstance(place, bytes):
            return place
        try:
            return place.read_bytes()
        except OSError as error:
            raise InvalidInput(f"image {str(place)!r} cannot be read: {error.strerror}", field="image") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(slots=True)
class Pairs:
    """What one file gave: good pairs in its order, and what was left out."""

    examples: list[Example]
    images: Images
    faults: list[Fault] = field(default_factory=list)

    def digest(self) -> str:
        """Return the SHA-256 of every pair; an image file counts by its name."""
        lines = (
            json.dumps([example.query, example.document, example.key, example.label, example.negatives])
            for example in self.examples
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def labels(self) -> dict[str, frozenset[str]]:
        """Return, for each document's key, the labels that it answers."""
        documents_by_label: dict[str, set[str]] = {}
        for example in self.examples:
            documents_by_label.setdefault(example.key, set()).add(example.label)
        return {key: frozenset(labels) for key, labels in documents_by_label.items()}


def read_pairs(
    path: Path,
    *,
    image_root: Path | None = None,
    strict: bool = False,
    images: Images | None = None,
    report: Report = lambda stage, done, total: None,
) -> Pairs:
    """Read every pair of a file, and decode each image once to check it.

    Raises `InvalidInput` if the file cannot be read or has no good pair, and with `strict` for the first bad row. Image
    paths are relative to `image_root`, the file's folder by default, and may not leave it. `images`, those of another
    file, are added to.
    """
    images = Images() if images is None else images
    known_images = set(images)
    reader = _Reader(images, (image_root or path.parent).resolve())
    parsed: list[tuple[str, Example | str]] = []  # where, and the pair or what is wrong with it
    for where, fields in _records(path):
        try:
            parsed.append((where, fields if isinstance(fields, str) else reader.example(fields)))
        except InvalidInput as error:
            parsed.append((where, error.detail))
        report(f"read {path.name}", len(parsed), 0)
    broken = _broken(images, [key for key in images if key not in known_images], path.name, report)
    pairs = Pairs([], images)
    for where, example in parsed:
        reason = (
            example
            if isinstance(example, str)
            else next((broken[key] for key in _keys(example) if key in broken), None)
        )
        if reason is not None and strict:
            raise InvalidInput(f"{where}: {reason}")
        if reason is not None:
            pairs.faults.append(Fault(where, reason))
        elif isinstance(example, Example):
            pairs.examples.append(example)
    if not pairs.examples:
        first = f"; the first of {len(pairs.faults)} bad ones is {_line(pairs.faults[0])}" if pairs.faults else ""
        raise InvalidInput(f"{path.name} has no usable pair{first}")
    pairs.examples = _one_name_each(pairs.examples)
    return pairs


def split(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Split pairs into those to train on and about `share` of them to validate with, by a hash of the query, so that
    equal queries stay together."""
    limit = round(share * 2**32)
    validation = [example for example in examples if int(_digest(example.query)[:8], 16) < limit]
    chosen = set(map(id, validation))
    return [example for example in examples if id(example) not in chosen], validation


def _line(fault: Fault) -> str:
    return f"{fault.where}: {fault.reason}"


def _keys(example: Example) -> list[str]:
    rows = [example.query, example.document, *(row for _, row in example.negatives)]
    return [image for _, image in rows if image is not None]


def _broken(images: Images, keys: Sequence[str], name: str, report: Report) -> dict[str, str]:
    """Return the reason for each image that cannot be decoded."""

    def fault(key: str) -> str | None:
        try:
            decode_image(images[key], _LIMITS, at_least_px=_CHECK_PX)
        except InvalidInput as error:
            return f"{key.removeprefix('file:')!r}: {error.detail}" if key.startswith("file:") else error.detail
        return None

    digests = {}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1), "check") as pool:
        for done, (key, reason) in enumerate(zip(keys, pool.map(fault, keys), strict=True), 1):
            if reason is not None:
                digests[key] = reason
            report(f"check images of {name}", done, len(keys))
    return digests


def _one_name_each(examples: list[Example]) -> list[Example]:
    """Give each document one name, also if it has an id in one row and none in another, or stands among the
    negatives."""
    named = {_key(None, example.document): example.key for example in examples}

    def renamed(example: Example) -> Example:
        key = named.get(example.key, example.key)
        label = key if example.label == example.key else example.label
        negatives = tuple((named.get(name, name), row) for name, row in example.negatives)
        return Example(example.query, example.document, key, label, negatives)

    return [renamed(example) for example in examples]


def _digest(row: Row) -> str:
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()


def _key(identifier: Any, row: Row) -> str:
    return f"content:{_digest(row)}" if identifier is None else f"id:{identifier}"


class _Reader:
    """Fields of a row to an `Example`. Raises `InvalidInput` saying what is wrong with it."""

    def __init__(self, images: Images, root: Path) -> None:
        self._images, self._root = images, root

    def example(self, fields: Mapping[str, Any]) -> Example:
        query = self._side(fields.get("query"), "query")
        document = self._side(fields.get("document"), "document")
        key = _key(_name(fields["document"].get("id"), "document.id"), document)
        label = _name(fields.get("label"), "label")
        raw_negatives = fields.get("negatives")
        if not isinstance(raw_negatives, list | None):
            raise InvalidInput(f"negatives is {_shown(raw_negatives)}, expected a list")
        negatives = []
        for number, value in enumerate(raw_negatives or []):
            row = self._side(value, f"negatives[{number}]")
            negatives.append((_key(_name(value.get("id"), f"negatives[{number}].id"), row), row))
        return Example(query, document, key, key if label is None else f"label:{label}", tuple(negatives))

    def _side(self, value: Any, name: str) -> Row:
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{name} is {_shown(value)}, expected an object with text, image or both")
        text = value.get("text")
        if not isinstance(text, str | None):
            raise InvalidInput(f"{name}.text is {_shown(text)}, expected text")
        text = normalise_text(text, _LIMITS) if text else None
        raw_image = value.get("image")
        image = None if raw_image is None or raw_image == "" else self._image(raw_image, f"{name}.image")
        if not text and image is None:
            raise InvalidInput(f"{name} has neither text nor image")
        return text or None, image

    def _image(self, value: Any, name: str) -> str:
        if isinstance(
            value, Mapping
        ):  # {"base64"} as the service takes it, {"bytes", "path"} as Hugging Face data sets have it
            if isinstance(encoded := value.get("base64"), str):
                return self._images.add_bytes(_named(name, read_base64, encoded))
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return self._images.add_bytes(value)
        if not isinstance(value, str):
            raise InvalidInput(f"{name} is {_shown(value)}, expected a path, a data URI, base64 or bytes")
        if is_data_uri(value):
            return self._images.add_bytes(_named(name, read_data_uri, value))
        if is_web_address(value):
            raise InvalidInput(
                f"{name} is an address ({value[:60]!r}); training reads local files, so download it first"
            )
        return self._file(value, name)

    def _file(self, value: str, name: str) -> str:
        try:
            path = (self._root / value).resolve()
            if path.is_file():
                if not path.is_relative_to(self._root):
                    raise InvalidInput(f"{name} {value[:200]!r} is outside {str(self._root)!r}")
                return self._images.add_file(path, path.relative_to(self._root).as_posix())
        except (OSError, ValueError):  # a name too long for a path, a NUL: not one
            pass
        if len(value) >= _LEAST_BASE64:
            try:
                return self._images.add_bytes(_named(name, read_base64, value))
            except InvalidInput:
                pass
        raise InvalidInput(f"{name} {value[:200]!r} is no file in {str(self._root)!r}")


def _named(name: str, read: Callable[[str, Limits], bytes], text: str) -> bytes:
    """Read an image; errors say which field of the pair it is."""
    try:
        return read(text, _LIMITS)
    except (InvalidInput, TooLarge) as error:
        raise InvalidInput(f"{name}{error.detail.removeprefix('image')}") from error


def _name(value: Any, field_name: str) -> str | None:
    """Return an id or label: text, or a number as text."""
    if value is None:
        return None
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(f"{field_name} is {_shown(value)}, expected text")


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Yield where a row stands, and its fields or why it has none."""
    try:
        for record in read_local(path):
            if isinstance(record.fields, InvalidInput):
                yield record.where, record.fields.detail.removeprefix(record.where).lstrip(": ")
            else:
                yield record.where, record.fields
    except InvalidInput as error:
        raise InvalidInput(error.detail, field="data") from error
