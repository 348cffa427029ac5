"""The fields of a record as those of a document: which is the text, the image, the id, and which are metadata.

    {"text": "caption", "image": "jpg", "id": "key", "metadata": ["width", "license"]}

Without a mapping each format has its own custom:

    jsonl        the fields of a posted document; an unknown one is an error, as it is in a post
    csv, parquet id, text (or caption), image (or file_name); the other columns are metadata, unless there is one of
    that name
    images       as csv, with file_name for the image
    webdataset   the first image member, the first text member or JSON field text or caption; the id is
                 `folder/shard/key`, because keys begin anew in every shard; the other fields of the JSON are metadata
    m2kr, mbeir  fixed by the benchmark; a mapping may name metadata and image_root

What is in a record and not in its document is named: bytes that are not the image, values that JSON cannot hold,
pictures that nobody asked for.
"""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from indexer.imports.locations import ReadImage
from model.errors import InvalidInput
from model.evaluation.benchmark_files import Row
from model.evaluation.m2kr import passage
from model.evaluation.mbeir import candidate
from model.images.sources import is_data_uri, is_web_address
from model.records import strict_json, webdataset
from model.records.base import FieldFilter, FixedBytes, Refused, every_field
from model.records.csv_dialect import DELIMITERS, ENCODINGS

Format = Literal["jsonl", "csv", "parquet", "webdataset", "images", "photos", "m2kr", "mbeir"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet", "webdataset", "images", "photos", "m2kr", "mbeir")
_FIXED = ("m2kr", "mbeir")
_UUID_BYTES = 16
_MAX_NAME_CHARS = 512
_MAX_METADATA = 256
# What a mapping names by itself.
_CONTENTS = ("text", "image", "images", "id")
# Every field that the mapping does not use.
ALL_OTHERS = "*"


@dataclass(frozen=True, slots=True)
class Columns:
    """The fields to use, by their names. `metadata` names fields to keep, or is `*`.

    `image_root` is the folder that image paths are relative to, by default the file's. `delimiter` and `encoding` are a
    CSV's.
    """

    text: str | None = None
    image: str | None = None
    images: str | None = None
    id: str | None = None
    metadata: tuple[str, ...] | Literal["*"] = ()
    image_root: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    @classmethod
    def parse(cls, mapping: Mapping[str, Any] | None, kind: str) -> Columns | None:
        """Read a mapping; None for none. Raises `InvalidInput` with the field, the value and what is allowed."""
        if mapping is None:
            return None
        if not isinstance(mapping, Mapping):
            raise InvalidInput(f"mapping is a {type(mapping).__name__}, it must be an object", field="mapping")
        if kind == "photos":
            raise InvalidInput("mapping cannot be set: photographs have no fields to name", field="mapping")
        names = {key: _name(key, mapping[key]) for key in mapping if key != "metadata"}
        columns = cls(**names, metadata=_metadata_names(mapping.get("metadata")))
        if kind in _FIXED and (set(names) - {"image_root"}):
            wrong = sorted(set(names) - {"image_root"})[0]
            raise InvalidInput(
                f"mapping.{wrong} cannot be set: {kind} fixes text, image and id",
                field=f"mapping.{wrong}",
                value=mapping[wrong],
            )
        for key in ("delimiter", "encoding"):
            if key in names and kind not in ("csv", "images"):
                raise InvalidInput(
                    f"mapping.{key} cannot be set: it is for CSV, not for {kind}", field=f"mapping.{key}"
                )
        contents = (columns.text, columns.image, columns.images)
        if kind not in _FIXED and contents == (None, None, None) and not columns.is_dialect:
            raise InvalidInput(
                "mapping names neither text nor image: at least one is needed", field="mapping", limit="text, image"
            )
        return columns

    @property
    def is_dialect(self) -> bool:
        """Whether it says only how a CSV is written, and its columns are what they are without a mapping."""
        names = {self.text, self.image, self.images, self.id, self.image_root}
        return names == {None} and not self.metadata and (self.delimiter or self.encoding) is not None

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}

    @property
    def named(self) -> dict[str, str]:
        """The names of fields by where the mapping has them, for messages."""
        single = {key: name for key in _CONTENTS if (name := getattr(self, key)) is not None}
        listed = (
            {}
            if self.metadata == ALL_OTHERS
            else {f"metadata[{place}]": name for place, name in enumerate(self.metadata)}
        )
        return single | listed


def _name(key: str, value: Any) -> str:
    if key == "delimiter":
        return _delimiter(value)
    if key == "encoding":
        return _encoding(value)
    if key not in (*_CONTENTS, "image_root"):
        allowed = "text, image, images, id, metadata, image_root, delimiter, encoding"
        raise InvalidInput(
            f"mapping.{key:.100} is unknown, allowed are {allowed}", field=f"mapping.{key:.100}", limit=allowed
        )
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME_CHARS:
        excerpt = f"{value!r:.100}"
        raise InvalidInput(
            f"mapping.{key} is {excerpt}, it must be a name of 1 to {_MAX_NAME_CHARS} characters",
            field=f"mapping.{key}",
            value=excerpt,
            limit=_MAX_NAME_CHARS,
        )
    return value


def _delimiter(value: Any) -> str:
    mark = next((mark for mark, name in DELIMITERS.items() if value in (mark, name)), None)
    if mark is None:
        allowed = ", ".join(DELIMITERS.values())
        raise InvalidInput(
            f"mapping.delimiter is {value!r:.50}, allowed are {allowed}", field="mapping.delimiter", limit=allowed
        )
    return mark


def _encoding(value: Any) -> str:
    if not isinstance(value, str) or value.lower() not in ENCODINGS:
        allowed = ", ".join(ENCODINGS)
        raise InvalidInput(
            f"mapping.encoding is {value!r:.50}, allowed are {allowed}", field="mapping.encoding", limit=allowed
        )
    return value.lower()


def _metadata_names(value: Any) -> tuple[str, ...] | Literal["*"]:
    if value is None:
        return ()
    if value == ALL_OTHERS:
        return "*"
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise InvalidInput(
            'mapping.metadata must be a list of names, or "*"', field="mapping.metadata", value=f"{value!r:.100}"
        )
    if len(value) > _MAX_METADATA:
        raise InvalidInput(
            f"mapping.metadata has {len(value)} names, limit is {_MAX_METADATA}",
            field="mapping.metadata",
            value=len(value),
            limit=_MAX_METADATA,
        )
    return tuple(value)


def used_fields(columns: Columns | None, kind: str) -> FieldFilter:
    """Return which fields need be read."""
    if kind == "webdataset" and columns is None:
        return lambda name: webdataset.is_picture(name) or webdataset.is_text(name)
    if columns is None or columns.metadata == ALL_OTHERS or columns.is_dialect or kind in _FIXED:
        return every_field
    names = frozenset(columns.named.values())
    return lambda name: name in names


@dataclass(frozen=True, slots=True)
class Mapped:
    """A document as {"id"?, "text"?, "image"?, "images"?, "metadata"?}, and what of its record is not in it."""

    document: dict[str, Any]
    left_out: tuple[str, ...] = ()


def document(fields: Mapping[str, Any], columns: Columns | None, kind: str, where: str) -> Mapped:
    """Map the fields of a record. Of JSONL without a mapping whatever is there is kept. Raises `InvalidInput`."""
    if kind in _FIXED:
        return _benchmark(fields, columns, kind, where)
    if columns is not None and not columns.is_dialect:
        return _mapped(fields, columns, where)
    if kind == "jsonl":
        return Mapped(dict(fields))
    if kind == "webdataset":
        return _sample(fields, where)
    return _row(fields, where)


def _mapped(fields: Mapping[str, Any], columns: Columns, where: str) -> Mapped:
    picked = {key: fields[name] for key in _CONTENTS if (name := getattr(columns, key)) is not None and name in fields}
    if columns.metadata == ALL_OTHERS:
        used = {*columns.named.values(), *webdataset.RESERVED}
        names: Sequence[str] = [name for name in fields if name not in used]
    else:
        names = columns.metadata
    return _finished(picked, {name: fields[name] for name in names if name in fields}, where)


def _row(fields: Mapping[str, Any], where: str) -> Mapped:
    text, image = _first(fields, "text", "caption"), _first(fields, "image", "file_name")
    picked = {key: fields[name] for key, name in (("id", "id"), ("text", text), ("image", image)) if name in fields}
    if fields.get("vector") is not None and isinstance(fields.get("fingerprint"), str):
        picked |= {name: fields[name] for name in ("vector", "fingerprint", "parts") if fields.get(name) is not None}
    if isinstance(fields.get("images"), list):
        picked["images"] = fields["images"]
    used = ("id", text, image, *(name for name in ("images", "vector", "fingerprint", "parts") if name in picked))
    remaining = {name: value for name, value in fields.items() if name not in used}
    return _finished(picked, fields.get("metadata", remaining), where)


def _sample(fields: Mapping[str, Any], where: str) -> Mapped:
    """Take the picture and the text of a sample by their whole extension, `jpg`, or else by its last part,
    `front.jpg`."""
    image = _member(fields, webdataset.IMAGES, webdataset.is_picture)
    text = _member(fields, webdataset.TEXTS, webdataset.is_text)
    picked = {"id": f"{fields[webdataset.SHARD]}/{fields[webdataset.KEY]}"}
    picked |= {key: fields[name] for key, name in (("text", text), ("image", image)) if name in fields}
    remaining = {
        name: value
        for name, value in fields.items()
        if not isinstance(value, bytes) and name not in (text, *webdataset.RESERVED)
    }
    mapped = _finished(picked, remaining, where)
    unused = [
        webdataset.unused_picture(name)
        for name, value in fields.items()
        if isinstance(value, bytes) and name != image and webdataset.is_picture(name)
    ]
    return Mapped(mapped.document, (*mapped.left_out, *unused))


def _member(fields: Mapping[str, Any], kinds: Sequence[str], matches: FieldFilter) -> str:
    exact = next((name for name in kinds if name in fields), None)
    return exact or next((name for name in fields if matches(name)), kinds[0])


def _benchmark(fields: Mapping[str, Any], columns: Columns | None, kind: str, where: str) -> Mapped:
    row = Row(where, fields)
    entry = candidate(row) if kind == "mbeir" else passage(row)
    picked = {"id": entry.id, "text": entry.text, "image": entry.image}
    names = () if columns is None or columns.metadata == ALL_OTHERS else columns.metadata
    return _finished(picked, {name: fields[name] for name in names if row.has(name)}, where)


def _first(fields: Mapping[str, Any], *names: str) -> str:
    return next((name for name in names if name in fields), names[0])


def _finished(picked: dict[str, Any], metadata: Any, where: str) -> Mapped:
    """Put a document together: numbers as ids become text, nulls are left out, metadata becomes what JSON can hold."""
    fields = {key: value for key, value in picked.items() if value is not None}
    for key, value in fields.items():
        if isinstance(value, Refused):
            raise InvalidInput(f"{where}: {key} is {value.reason}", field=key)
    if "id" in fields:
        fields["id"] = _id(fields["id"])
    left_out: list[str] = []
    if "images" in fields:
        images = fields["images"] if isinstance(fields["images"], list) else [fields["images"]]
        fields["images"] = [image for image in images if image is not None]
    if isinstance(fields.get("image"), list):
        fields["image"], unused = _first_picture(fields["image"])
        left_out += ["a picture of a list that its document does not use"] * unused
        fields = {key: value for key, value in fields.items() if value is not None}
    for key in ("id", "text"):
        if isinstance(fields.get(key), bytes):
            fields[key] = _utf8(fields[key], f"{where}: {key}")
    try:
        plain = _plain(metadata, left_out)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{where} has metadata that is not a JSON object: {error}", field="metadata") from error
    return Mapped(fields | {"metadata": plain} if plain else fields, tuple(left_out))


def _id(value: Any) -> Any:
    """Return an id as text: a whole number, also where missing values made it a float, and the 16 bytes of a UUID."""
    if isinstance(value, FixedBytes) and len(value) == _UUID_BYTES:
        return str(uuid.UUID(bytes=bytes(value)))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


def _first_picture(pictures: list[Any]) -> tuple[Any, int]:
    """Return the first picture of a list, and how many more there are."""
    usable = [value for value in pictures if value is not None]
    return (usable[0], len(usable) - 1) if usable else (None, 0)


def _utf8(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{place} is not UTF-8: {error.reason} at byte {error.start}") from error


def _plain(value: Any, left_out: list[str]) -> dict[str, Any]:
    """Return an object without nulls, or the JSON of one as it is; of what JSON cannot hold, the field is left out and
    named."""
    if value is None:
        return {}
    if isinstance(value, Refused):
        left_out.append(f"metadata: {value.reason}")
        return {}
    is_json = isinstance(value, str | bytes)
    if is_json:
        value = strict_json.loads(value if isinstance(value, bytes) else value.encode())
    if not isinstance(value, dict):
        raise TypeError(f"it is a {type(value).__name__}")
    plain: dict[str, Any] = {}
    for name, content in value.items():
        if (reason := _fault(content)) is not None:
            left_out.append(f"field {name!r:.100}: {reason}")
        elif content is not None or is_json:
            plain[name] = content
    return plain


def _fault(value: Any) -> str | None:
    """Return why JSON cannot hold a value, None where it can. Without recursion."""
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, bytes):
            return "bytes that are not the image of the document"
        if isinstance(value, Refused):
            return value.reason
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
    return None


def picture(image: Any, read_image: ReadImage) -> Any:
    """Return the bytes of an image that is bytes, {"bytes", "path"} (as Hugging Face data sets have it) or a path.

    Anything else, a URL, a data URI or an object, is returned as it is, for whoever checks the document. Raises
    `InvalidInput`.
    """
    if isinstance(image, dict) and {"bytes", "path"} & image.keys():
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and not (is_data_uri(image) or is_web_address(image)):
        return read_image(image)
    return image


def with_picture(document: dict[str, Any], read_image: ReadImage) -> dict[str, Any]:
    """Return a document whose images, where they are files, are the bytes of those. Raises `InvalidInput`."""
    if "image" in document:
        document = {**document, "image": picture(document["image"], read_image)}
    if isinstance(document.get("images"), list):
        document = {**document, "images": [picture(image, read_image) for image in document["images"]]}
    return document


def wire(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as it is posted: its images URLs, base64 or data URIs, its vector base64."""
    if isinstance(document.get("vector"), list):
        with np.errstate(over="ignore"):
            values = np.asarray(document["vector"], "<f4").tobytes()
        document = {**document, "vector": base64.b64encode(values).decode("ascii")}
    if document.get("image") is not None:
        document = {**document, "image": _image_wire(document["image"])}
    if isinstance(document.get("images"), list):
        document = {**document, "images": [_image_wire(image) for image in document["images"]]}
    return document


def _image_wire(image: Any) -> Any:
    if isinstance(image, bytes):
        return {"base64": base64.b64encode(image).decode("ascii")}
    return {"url": image} if isinstance(image, str) and not is_data_uri(image) else image
