"""One point's payload and field paths, written alike by both Qdrant engines so that their folders can be told by one
reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from indexer.domain.points import NO_VECTOR, Hit, Lexical, MetadataChange, Part, Point
from indexer.filters import steps
from indexer.store.criteria import Place
from indexer.store.search_terms import TERMS, with_terms, without_terms
from indexer.store.vectors import Stored
from model.errors import InvalidInput
from model.types import SHARE_DIGITS, Float32, Shares

# The fields that name images.
IMAGE_FIELDS = ["image_digest", "more_images"]
MAX_NAME_BYTES = 200  # a file name has 255, as a Qdrant collection


def payload_of(point: Point) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "document_id": point.document_id,
        "text": point.text,
        "image_digest": point.image_digest,
        "content_hash": point.content_hash,
        "metadata": with_terms(point.metadata),
    }
    if point.shares is not None:
        payload["shares"] = _rounded(point.shares)
    if point.more_images:
        payload["more_images"] = list(point.more_images)
    if point.parts:
        payload["parts"] = [_part_values(part) for part in point.parts]
    return payload


def payload_change(change: MetadataChange) -> dict[str, Any]:
    """Return the parts of the payload that other metadata replace."""
    return {"content_hash": change.content_hash, "metadata": with_terms(change.metadata)}


def point_of(payload: Mapping[str, Any], stored: Stored | None = None) -> Point:
    parts = _parts(payload)
    return Point(
        document_id=payload["document_id"],
        vector=NO_VECTOR if stored is None else stored.vector,
        text=payload["text"],
        image_digest=payload["image_digest"],
        metadata=without_terms(payload["metadata"]),
        content_hash=payload["content_hash"],
        shares=_shares(payload),
        latents=None if stored is None else stored.latents,
        more_images=tuple(payload.get("more_images", ())),
        parts=parts,
        part_vectors=stored.vectors if stored and parts else None,
    )


def hit_of(payload: Mapping[str, Any], place: Place, vector: Float32 | None) -> Hit:
    return Hit(
        document_id=payload["document_id"],
        score=place.score,
        text=payload["text"],
        image_digest=payload["image_digest"],
        metadata=without_terms(payload["metadata"]),
        vector=vector,
        shares=_shares(payload),
        lexical=None if place.words is None else Lexical(place.words, place.share),
        more_images=tuple(payload.get("more_images", ())),
        parts=_parts(payload),
    )


def _part_values(part: Part) -> list[Any]:
    place = [part.start, part.end, part.image]
    return place if part.shares is None else [*place, _rounded(part.shares)]


def _parts(payload: Mapping[str, Any]) -> tuple[Part, ...]:
    return tuple(
        Part(start, end, image, _layers(shares[0]) if shares else None)
        for start, end, image, *shares in payload.get("parts", ())
    )


def _rounded(shares: Shares) -> list[list[float]]:
    return [[round(share, SHARE_DIGITS) for share in layer] for layer in shares]


def _shares(payload: Mapping[str, Any]) -> Shares | None:
    layers = payload.get("shares")
    return None if layers is None else _layers(layers)


def _layers(layers: Sequence[Sequence[float]]) -> Shares:
    return tuple((text, image) for text, image in layers)


def digests(payloads: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """Return the digests of the images of points."""
    return [digest for payload in payloads for digest in _digests(payload or {})]


def _digests(payload: Mapping[str, Any]) -> list[str]:
    first = payload.get("image_digest")
    return [*([] if first is None else [first]), *payload.get("more_images", ())]


def path_of(field: str) -> str:
    """Return a metadata field as a Qdrant JSON path. Every key is quoted, so that spaces, dashes and brackets are plain
    characters."""
    return f'"metadata".{relative_path(field)}'


def relative_path(field: str) -> str:
    """Return a field as a condition on the objects of a list names it."""
    return ".".join(f'"{key}"' for key in steps(field))


def terms_path_of(field: str) -> str:
    """Return the path of a field's search terms: see `search_terms`."""
    return f'"metadata".{relative_terms_path(field)}'


def relative_terms_path(field: str) -> str:
    """Return the path of a field's search terms from an object in a list."""
    *outer, last = steps(field)
    return ".".join(f'"{key}"' for key in (*outer, TERMS, last))


def quoted(path: str) -> str:
    """Return a path in the form of `path_of`; an engine shows it without quotes where it can."""
    return re.sub(r'"[^"]*"|[^."\[\]]+', lambda key: key[0] if key[0].startswith('"') else f'"{key[0]}"', path)


def engine_name(collection: str) -> str:
    """Return a collection's name in a form that suits a folder and a Qdrant collection, without separators and leading
    dots."""
    name = quote(collection, safe="").replace(".", "%2E")
    if not 1 <= len(name) <= MAX_NAME_BYTES:
        raise InvalidInput(f"collection name has {len(name)} bytes, limit is 1 to {MAX_NAME_BYTES}", field="collection")
    return name
