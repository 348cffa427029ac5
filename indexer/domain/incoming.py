"""The model of an incoming document: posts, `ret2 load` and imports read documents with it, so that its fields, bounds
and messages are the same wherever a document comes from."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from indexer.domain.bodies import Wire, examples
from indexer.domain.documents import GivenVector, Incoming, written_spans
from indexer.domain.inputs import ImageField, InputIn, check_text, check_unicode, image_source
from indexer.domain.names import DocumentId
from indexer.domain.points import MAX_PARTS, MAX_VALUES
from indexer.domain.samples import DOCUMENTS, PNG_BASE64
from indexer.domain.validation import invalid, shown
from indexer.filters.nodes import MAX_PATH_CHARS, can_be_named
from indexer.filters.values import EXACT_INTEGERS, WHOLE_NUMBERS
from model.errors import InvalidInput, RetrievalError, TooLarge
from model.settings import setting
from model.types import Limits

# Of one document, the first one included.
MAX_IMAGES = 16
# Beside the metadata, which has bounds of its own.
_MAX_DEPTH, _MAX_FIELDS = 100, 100
_SHOWN_CHARS = 100
# The base64 of as many numbers as a point has at most, of all its parts.
_MAX_VECTOR_CHARS = MAX_VALUES * 4 // 3 * 4 + 4


def _check_removed(value: Any) -> None:
    if value is not None:
        raise ValueError("can only be null here, which takes it away: post the document whole to replace it")


Removed = Annotated[None, BeforeValidator(_check_removed)]


# Tags in angle brackets are left out of the names of wrong fields.
_Vector = Annotated[
    Annotated[str, StringConstraints(max_length=_MAX_VECTOR_CHARS), Tag("<base64>")]
    | Annotated[list[float], Field(max_length=65_535), Tag("<numbers>")],
    Discriminator(lambda value: "<base64>" if isinstance(value, str) else "<numbers>"),
]


_Span = Annotated[list[Annotated[int, Field(ge=0)] | None], Field(min_length=2, max_length=2)]


class DocumentIn(InputIn):
    """A document to index. Without an id it gets one that derives from its content."""

    model_config = ConfigDict(json_schema_extra=examples(*DOCUMENTS))

    images: list[ImageField] | None = Field(
        None,
        description=f"further images, at most {MAX_IMAGES} with `image`; each is searched by itself, beside the text "
        "or its first passage",
        examples=[[{"base64": PNG_BASE64}]],
    )
    id: DocumentId | None = Field(None, description="the document's id; by default it derives from the content")
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else about the document, to filter by and to show; whole numbers have at most 64 bits",
    )
    vector: _Vector | None = Field(
        None,
        description="its embedding, as an export has it: numbers, or little-endian float32 in base64. With the "
        "fingerprint of the collection's model the document is not embedded again; with another one it is, and this "
        "is not used",
        examples=[[0.6, 0.8]],
    )
    fingerprint: str | None = Field(
        None, max_length=128, description="the fingerprint of the model that made `vector`", examples=["3f2c9a"]
    )
    parts: list[_Span] | None = Field(
        None,
        min_length=2,
        max_length=MAX_PARTS,
        description="of a document of several parts, as an export has it: then `vector` has the embedding of each, one "
        "after the other, and this says where each begins and ends in the text, null without a text. Where the "
        "collection cuts the text otherwise, the document is embedded again",
        examples=[[[0, 24], [25, 45]]],
    )

    @model_validator(mode="after")
    def _check_vector(self) -> DocumentIn:
        if (self.vector is None) != (self.fingerprint is None):
            raise ValueError("vector and fingerprint go together: give both or neither")
        if self.parts is not None and self.vector is None:
            raise ValueError("parts are those of vector: give both or neither")
        return self

    @model_validator(mode="after")
    def _check_content(self) -> DocumentIn:
        if not self.text and self.image is None and not self.images:
            raise ValueError("neither text nor image: at least one is needed")
        return self


FIELDS = tuple(DocumentIn.model_fields)


class PatchIn(Wire):
    """What to change of a document that is there. What is not named stays as it is."""

    model_config = ConfigDict(json_schema_extra=examples({"metadata": {"area_km2": 551695, "note": None}}))
    nullable = frozenset({"text", "image"})

    metadata: dict[str, Any] | None = Field(
        None,
        description="a merge patch (RFC 7396) of the metadata: fields are replaced or added, objects are merged, null "
        "removes a field",
    )
    text: Removed = Field(
        None, description="null takes the text away, and the document is embedded again", examples=[None]
    )
    image: Removed = Field(
        None, description="null takes the image away, and the document is embedded again", examples=[None]
    )

    @model_validator(mode="after")
    def _check_content(self) -> PatchIn:
        if not self.model_fields_set & {"metadata", "text", "image"}:
            raise ValueError("nothing to change: give metadata, or text or image as null")
        if {"text", "image"} <= self.model_fields_set:
            raise ValueError("text and image cannot both be taken away: delete the document instead")
        return self

    def patch(self) -> dict[str, Any]:
        """Return the patch of the document as a job keeps it."""
        return self.model_dump(include=self.model_fields_set & {"metadata", "text", "image"})


class UpdateIn(PatchIn):
    """What to change of the document with this id."""

    model_config = ConfigDict(json_schema_extra=examples({"id": DOCUMENTS[0]["id"], "metadata": {"area_km2": 551695}}))

    id: DocumentId = Field(description="the id of a document that is there")


@dataclass(frozen=True, slots=True)
class DocumentBounds:
    """The limits of one document."""

    limits: Limits = field(default_factory=Limits)
    max_metadata_bytes: int = setting(64 * 1024, "max_metadata_bytes", "one document's metadata as JSON", gt=0)
    max_metadata_depth: int = setting(8, "max_metadata_depth", "nesting of one document's metadata", gt=0)


def incoming(position: int, value: Any, bounds: DocumentBounds) -> Incoming:
    """Return a document that was posted or read from a file, checked as far as that goes without decoding its image.

    Raise `InvalidInput` or `TooLarge` for what is wrong with it.
    """
    document = _parsed(value)
    check_text(document.text, bounds.limits)
    check_unicode(document.text or "", "text", "text")
    check_metadata(document.metadata, bounds)
    source, *more_images = _image_sources(document, bounds.limits) or [None]
    return Incoming(
        position=position,
        id=document.id,
        text=document.text or None,
        image=source if isinstance(source, bytes) else None,
        image_url=source if isinstance(source, str) else None,
        metadata=document.metadata,
        vector=_vector(document),
        more_images=tuple(image for image in more_images if image is not None),
    )


def _vector(document: DocumentIn) -> GivenVector | None:
    if document.vector is None or document.fingerprint is None:
        return None
    if isinstance(document.vector, str):
        try:
            values = np.frombuffer(base64.b64decode(document.vector, validate=True), "<f4")
        except ValueError as error:
            raise InvalidInput("vector is not the base64 of float32 values", field="vector") from error
    else:
        with np.errstate(over="ignore"):
            values = np.asarray(document.vector, "<f4")
    if not len(values) or not np.isfinite(values).all() or not values.any():
        raise InvalidInput("vector is empty or zero, or has values that are not finite", field="vector")
    parts = document.parts or ()
    if parts and len(values) % len(parts):
        raise InvalidInput(
            f"vector has {len(values)} numbers, which are no embeddings of {len(parts)} parts", field="vector"
        )
    spans = written_spans([(start, end) for start, end in parts])
    return GivenVector(base64.b64encode(values.tobytes()).decode(), document.fingerprint, spans)


def update(position: int, value: Any, bounds: DocumentBounds) -> Incoming:
    """Return an update that was posted: an `Incoming` whose metadata are the patch. Raise as `incoming` does."""
    if not isinstance(value, dict):
        raise InvalidInput(f"an update is an object, this is {shown(value)!r}")
    _check_form(value)
    try:
        parsed = UpdateIn.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from error
    if parsed.metadata is not None:
        check_metadata(parsed.metadata, bounds)
    return Incoming(position=position, id=parsed.id, metadata=parsed.patch())


def _image_sources(document: DocumentIn, limits: Limits) -> list[bytes | str | None]:
    """Return the images of a document in order. Raise what is wrong with one of them, naming it."""
    images = [] if document.image is None else [("image", document.image)]
    images += [(f"images[{place}]", image) for place, image in enumerate(document.images or ())]
    if len(images) > MAX_IMAGES:
        raise TooLarge(
            f"the document has {len(images)} images, limit is {MAX_IMAGES}",
            field="images",
            value=len(images),
            limit=MAX_IMAGES,
        )
    sources: list[bytes | str | None] = []
    for name, image in images:
        try:
            sources.append(image_source(image, limits))
        except RetrievalError as error:
            if name != "image":
                error.field, error.detail = name, f"{name}: {error.detail}"
            raise
    return sources


def check_document(value: Any) -> None:
    """Raise `InvalidInput` for what is no document whatever the bounds are."""
    document = _parsed(value)
    check_unicode(document.text or "", "text", "text")
    json_bytes(document.metadata)


def _parsed(value: Any) -> DocumentIn:
    if not isinstance(value, dict):
        raise InvalidInput(f"a document is an object, this is {shown(value)!r}")
    _check_form(value)
    unknown = next((name for name in value if name not in FIELDS), None)
    if unknown is not None:
        raise InvalidInput(
            f"unknown field {unknown!r:.{_SHOWN_CHARS}}: a document has {', '.join(FIELDS)}; anything else belongs in "
            "its metadata, where the mapping of an import can put it",
            field=str(unknown)[:_SHOWN_CHARS],
        )
    try:
        document = DocumentIn.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from error
    return document


def shown_id(value: Any) -> str | None:
    """Return the id of a document that is not accepted, for messages."""
    identifier = value.get("id") if isinstance(value, dict) else None
    return identifier[:512] if isinstance(identifier, str) else None


def _check_form(value: Any) -> None:
    """Refuse what would take validation long: thousands of fields, or lists inside lists a thousand deep."""
    depth, level = 0, [value]
    while level:
        if (depth := depth + 1) > _MAX_DEPTH:
            raise InvalidInput(f"the document is nested over {_MAX_DEPTH} deep beside its metadata")
        inner: list[Any] = []
        for part in level:
            if isinstance(part, dict | list) and len(part) > _MAX_FIELDS:
                raise InvalidInput(f"{len(part)} fields or values beside the metadata, limit is {_MAX_FIELDS}")
            if isinstance(part, dict):
                inner += [member for name, member in part.items() if name not in ("metadata", "vector")]
            elif isinstance(part, list):
                inner += part
        level = inner


# --- metadata


def check_metadata(metadata: Mapping[str, Any], bounds: DocumentBounds) -> None:
    """Raise `TooLarge` or `InvalidInput` for metadata that no document may have."""
    # Depth first: orjson writes no more than 254 levels, and says so with an error of its own.
    if (depth := nesting(metadata)) > bounds.max_metadata_depth:
        raise TooLarge(f"metadata is nested {depth} deep, limit is {bounds.max_metadata_depth}", field="metadata")
    if (size := json_bytes(metadata)) > bounds.max_metadata_bytes:
        raise TooLarge(f"metadata has {size} bytes as JSON, limit is {bounds.max_metadata_bytes}", field="metadata")
    _check_keys(metadata)


def _check_keys(metadata: Mapping[str, Any]) -> None:
    """Refuse keys that no filter could name."""
    values: list[Any] = [metadata]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            for key in value:
                if not can_be_named(key):
                    raise InvalidInput(
                        f"metadata has the key {shown(key)!r}: a key has 1 to {MAX_PATH_CHARS} characters, "
                        "none of them a double quote or a backslash, so that filters can name it",
                        field="metadata",
                        value=shown(key),
                    )
            values += value.values()
        elif isinstance(value, list):
            values += value


def nesting(value: Any) -> int:
    """Return how deep lists and objects are nested, without recursion: the parser lets a thousand levels through."""
    deepest, level = 0, [value]
    while level := [value for value in level if isinstance(value, dict | list)]:
        deepest += 1
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
    return deepest


def json_bytes(metadata: Mapping[str, Any]) -> int:
    """Return the size of metadata as JSON. Raise `InvalidInput`, naming the field, for what JSON or a store cannot
    hold."""
    try:
        return len(orjson.dumps(metadata))
    except TypeError as error:
        raise unwritable("metadata", metadata, error) from error


def unwritable(name: str, value: Any, error: TypeError) -> InvalidInput:
    """Return why orjson does not write a value, with the place in it."""
    values: list[tuple[str, Any]] = [(name, value)]
    while values:
        path, value = values.pop()
        if isinstance(value, int) and value not in EXACT_INTEGERS:
            return InvalidInput(f"{path:.200} is {_digits(value)}, {WHOLE_NUMBERS}", field=path[:200])
        if isinstance(value, str) and not _is_unicode(value):
            return InvalidInput(f"{path:.200} has half a surrogate pair, which is no character", field=path[:200])
        if isinstance(value, dict):
            values += [(_member(path, name), inner) for name, inner in value.items()]
            values += [(path, name) for name in value if isinstance(name, str) and not _is_unicode(name)]
        elif isinstance(value, list):
            values += [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]
    return InvalidInput(f"{name} cannot be written as JSON: {error}", field=name)


def _member(path: str, name: Any) -> str:
    return f"{path}.{name}".encode("utf-8", "backslashreplace").decode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digits(number: int) -> str:
    """Return the digits of a number, or how many bits it has: Python writes no more than some thousand digits."""
    return str(number) if number.bit_length() < 256 else f"a number of {number.bit_length()} bits"
