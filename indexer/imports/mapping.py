"""What the fields of a record mean: which is the text, the image, the id, and which are metadata. Images become bytes or a URL.

    {"text": "caption", "image": "jpg", "id": "key", "metadata": ["width", "license"]}

Without a mapping each format has its own custom:

    jsonl        the fields of a posted document; an unknown one is an error, as it is in a post
    csv, parquet id, text (or caption), image (or file_name); the other columns are metadata, unless there is one of that name
    images       as csv, with file_name for the image
    webdataset   the first image member, the first text member or JSON field text or caption; the id is `shard/key`, for keys begin anew
                 in every shard; the rest of the JSON is metadata
    m2kr, mbeir  fixed by the benchmark; a mapping may name metadata and image_root
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from indexer.imports.formats import tar
from indexer.imports.formats.base import Wanted, everything
from indexer.imports.locations import ReadImage
from model.errors import InvalidInput
from model.evaluation.benchmark_files import Row
from model.evaluation.mbeir import sentence

Format = Literal["jsonl", "csv", "parquet", "webdataset", "images", "m2kr", "mbeir"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet", "webdataset", "images", "m2kr", "mbeir")
_FIXED = ("m2kr", "mbeir")
DOCUMENT = ("id", "text", "image", "metadata")
_MAX_NAME_CHARS = 512
_MAX_METADATA = 256
REST = "*"  # every field that the mapping does not use


@dataclass(frozen=True, slots=True)
class Columns:
    """`metadata` names fields to keep, or is `*`. `image_root` is the folder that image paths are relative to, by default the file's."""

    text: str | None = None
    image: str | None = None
    id: str | None = None
    metadata: tuple[str, ...] | Literal["*"] = ()
    image_root: str | None = None

    @classmethod
    def parse(cls, mapping: Mapping[str, Any] | None, kind: str) -> Columns | None:
        """None for none. Raises `InvalidInput` with the field, the value and what is allowed."""
        if mapping is None:
            return None
        if not isinstance(mapping, Mapping):
            raise InvalidInput(f"mapping is a {type(mapping).__name__}, it must be an object", field="mapping")
        names = {key: _name(key, mapping[key]) for key in mapping if key != "metadata"}
        columns = cls(**names, metadata=_metadata_names(mapping.get("metadata")))
        if kind in _FIXED and (set(names) - {"image_root"}):
            wrong = sorted(set(names) - {"image_root"})[0]
            raise InvalidInput(
                f"mapping.{wrong} cannot be set: {kind} fixes text, image and id",
                field=f"mapping.{wrong}",
                value=mapping[wrong],
            )
        if kind not in _FIXED and columns.text is None and columns.image is None:
            raise InvalidInput(
                "mapping names neither text nor image: at least one is needed", field="mapping", limit="text, image"
            )
        return columns

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}

    @property
    def named(self) -> dict[str, str]:
        """Field names by where they are given, for messages."""
        single = {key: name for key in ("text", "image", "id") if (name := getattr(self, key)) is not None}
        listed = (
            {} if self.metadata == REST else {f"metadata[{place}]": name for place, name in enumerate(self.metadata)}
        )
        return single | listed


def _name(key: str, value: Any) -> str:
    if key not in ("text", "image", "id", "image_root"):
        allowed = "text, image, id, metadata, image_root"
        raise InvalidInput(
            f"mapping.{key:.100} is unknown, allowed are {allowed}", field=f"mapping.{key:.100}", limit=allowed
        )
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME_CHARS:
        shown = f"{value!r:.100}"
        raise InvalidInput(
            f"mapping.{key} is {shown}, it must be a name of 1 to {_MAX_NAME_CHARS} characters",
            field=f"mapping.{key}",
            value=shown,
            limit=_MAX_NAME_CHARS,
        )
    return value


def _metadata_names(value: Any) -> tuple[str, ...] | Literal["*"]:
    if value is None:
        return ()
    if value == REST:
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


def wanted(columns: Columns | None, kind: str) -> Wanted:
    """Which fields need be read."""
    if kind == "webdataset" and columns is None:
        return lambda name: name.rpartition(".")[2] in (*tar.IMAGES, *tar.TEXTS)
    if columns is None or columns.metadata == REST or kind in _FIXED:
        return everything
    used = frozenset(columns.named.values())
    return lambda name: name in used


def document(fields: Mapping[str, Any], columns: Columns | None, kind: str, where: str) -> dict[str, Any]:
    """{"id"?, "text"?, "image"?, "metadata"?}, and of JSONL without a mapping whatever else is there. Raises `InvalidInput`."""
    if kind in _FIXED:
        return _benchmark(fields, columns, kind, where)
    if columns is not None:
        return _mapped(fields, columns, where)
    if kind == "jsonl":
        return dict(fields)
    if kind == "webdataset":
        return _sample(fields, where)
    return _row(fields, where)


def _mapped(fields: Mapping[str, Any], columns: Columns, where: str) -> dict[str, Any]:
    picked = {
        key: fields[name]
        for key in ("text", "image", "id")
        if (name := getattr(columns, key)) is not None and name in fields
    }
    if columns.metadata == REST:
        names: Sequence[str] = [name for name in fields if name not in columns.named.values() and name not in tar.OURS]
    else:
        names = columns.metadata
    return _finished(picked, {name: fields[name] for name in names if name in fields}, where)


def _row(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    text, image = _first(fields, "text", "caption"), _first(fields, "image", "file_name")
    picked = {key: fields[name] for key, name in (("id", "id"), ("text", text), ("image", image)) if name in fields}
    rest = {name: value for name, value in fields.items() if name not in ("id", text, image)}
    return _finished(picked, fields.get("metadata", rest), where)


def _sample(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    image, text = _first(fields, *tar.IMAGES), _first(fields, *tar.TEXTS)
    picked = {"id": f"{fields[tar.SHARD]}/{fields[tar.KEY]}"}
    picked |= {key: fields[name] for key, name in (("text", text), ("image", image)) if name in fields}
    rest = {
        name: value for name, value in fields.items() if not isinstance(value, bytes) and name not in (text, *tar.OURS)
    }
    return _finished(picked, rest, where)


def _benchmark(fields: Mapping[str, Any], columns: Columns | None, kind: str, where: str) -> dict[str, Any]:
    row = Row(where, fields)
    if kind == "mbeir":
        text, image, picked = sentence(row.text("txt") or "") or None, row.text("img_path"), {"id": row.id("did")}
    else:
        original = not row.has("passage_text") and row.has("passage_content")
        text = row.text("passage_content" if original else "passage_text")
        image, picked = row.text("passage_image_path"), {"id": row.id("passage_id")}
    picked |= {key: value for key, value in (("text", text), ("image", image)) if value is not None}
    names = () if columns is None or columns.metadata == REST else columns.metadata
    return _finished(picked, {name: fields[name] for name in names if row.has(name)}, where)


def _first(fields: Mapping[str, Any], *names: str) -> str:
    return next((name for name in names if name in fields), names[0])


def _finished(picked: dict[str, Any], metadata: Any, where: str) -> dict[str, Any]:
    found = {key: value for key, value in picked.items() if value is not None}
    if isinstance(found.get("id"), int | float) and not isinstance(found["id"], bool):
        found["id"] = str(found["id"])
    for key in ("id", "text"):
        if isinstance(found.get(key), bytes):
            found[key] = _utf8(found[key], f"{where}: {key}")
    try:
        plain = _plain(metadata)
    except (orjson.JSONDecodeError, TypeError, ValueError) as error:
        raise InvalidInput(f"{where} has metadata that is not a JSON object: {error}", field="metadata") from error
    return found | {"metadata": plain} if plain else found


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from error


def _plain(value: Any) -> dict[str, Any]:
    """A struct, a map (Arrow gives its pairs) or a JSON string, as what JSON can hold: dates become ISO strings, nulls are left out."""
    if value is None:
        return {}
    if isinstance(value, str | bytes):
        value = orjson.loads(value)
    elif isinstance(value, list):
        value = dict(value)
    plain = orjson.loads(orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY))
    if not isinstance(plain, dict):
        raise TypeError(f"it is a {type(plain).__name__}")
    return {name: each for name, each in plain.items() if each is not None}


def picture(image: Any, read_image: ReadImage) -> Any:
    """The bytes of an image that is bytes, {"bytes", "path"} (as Hugging Face data sets have it) or a path; else what it was.

    What remains, a URL, a data URI or an object, is for whoever checks the document. Raises `InvalidInput`.
    """
    if isinstance(image, dict) and {"bytes", "path"} & image.keys():
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and not image.startswith(("data:", "http://", "https://")):
        return read_image(image)
    return image


def wire(document: dict[str, Any], read_image: ReadImage) -> dict[str, Any]:
    """A document as it is posted: its image a URL, base64, a data URI, or what the service is to refuse."""
    image = picture(document.get("image"), read_image)
    if image is None:
        return {key: value for key, value in document.items() if key != "image"}
    if isinstance(image, bytes):
        image = {"base64": base64.b64encode(image).decode("ascii")}
    elif isinstance(image, str) and not image.startswith("data:"):
        image = {"url": image}
    return {**document, "image": image}
