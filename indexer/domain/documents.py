"""Documents, the references to their images, and the ids and hashes derived from them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class GivenVector:
    """The embedding that a document came with, as an export has it: little-endian float32 in base64, and the
    fingerprint of its model. Of a document of several parts the embedding of each, one after the other, and where each
    stands in the text (`written_spans`)."""

    base64: str
    fingerprint: str
    spans: str = ""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One posted document that passed the checks at the HTTP edge.

    At most one of `image` (file bytes) and `image_url`; each of the further images is one or the other.
    """

    position: int
    id: str | None = None
    text: str | None = None
    image: bytes | None = None
    image_url: str | None = None
    metadata: Metadata = field(default_factory=dict)
    # What its record in a file has and it has not: words that are the same for every record of a kind.
    left_out: tuple[str, ...] = ()
    vector: GivenVector | None = None
    more_images: tuple[bytes | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """One posted document that is not accepted, and why."""

    position: int
    id: str | None
    code: str
    detail: str


Metadata = Mapping[str, Any]


# Point ids derive from document ids, so that writing a document twice has the effect of writing it once.
_POINT_NAMESPACE = uuid.UUID("6e0a4b54-2f5b-5d0e-9c53-0d6b5b3f7a11")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The place of a document's image: a stored blob (by its SHA-256, hex) or a URL that is still to be fetched."""

    digest: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One accepted document. `id` is the caller's, or `content_id(...)` when the caller gave none."""

    id: str
    text: str | None = None
    image: ImageRef | None = None
    metadata: Metadata = field(default_factory=dict)
    vector: GivenVector | None = None
    more_images: tuple[ImageRef, ...] = ()

    @property
    def images(self) -> tuple[ImageRef, ...]:
        return (() if self.image is None else (self.image,)) + self.more_images


class ThumbnailWidth(IntEnum):
    """The longer sides that thumbnails have: for a list of hits, and for a picture that fills a screen."""

    SMALL = 256
    LARGE = 1024


def written_spans(spans: Sequence[tuple[int | None, int | None]]) -> str:
    """Return the spans of parts as one text, to be kept and compared; empty of one part."""
    return " ".join(f"{start}:{end}" for start, end in spans) if len(spans) > 1 else ""


def point_id(document_id: str) -> str:
    """Return the store's id of a document: a UUID version 5 of the document id."""
    # Written out: `uuid.uuid5` takes three times as long, and a load asks for each document.
    digits = hashlib.sha1(_POINT_NAMESPACE.bytes + document_id.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def content_id(text: str | None, image: str | None, metadata: Metadata, more_images: Sequence[str] = ()) -> str:
    """Return an id for a document that came without one: a hash of its content, so that posting it twice changes
    nothing."""
    return content_hash(text, image, metadata, more_images)[:32]


def content_hash(text: str | None, image: str | None, metadata: Metadata, more_images: Sequence[str] = ()) -> str:
    """Return the SHA-256 (hex) of a canonical form of a document's content. Images are their digests."""
    images = [image, *more_images] if more_images else image
    canonical = json.dumps([text, images, metadata], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def stamped(content: str, fingerprint: str, cut: str = "") -> str:
    """Return a content hash together with the model that embedded the content, and how its text was cut where that was
    not by the model's own limit."""
    return f"{content}-{fingerprint[:16]}" + (f"-{cut}" if cut else "")


def unstamped(stamp: str) -> str:
    """Return the content hash of a stamp."""
    return stamp.partition("-")[0]
