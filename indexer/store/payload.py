"""One point's payload and field paths, written alike by both Qdrant engines so that their folders can be told by one
reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from indexer.domain.points import NO_VECTOR, Hit, Lexical, MetadataChange, Point
from indexer.filters import steps
from indexer.store.criteria import Place
from indexer.store.search_terms import TERMS, with_terms, without_terms
from model.errors import InvalidInput
from model.types import SHARE_DIGITS, Float32, Shares

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
        payload["shares"] = [[round(share, SHARE_DIGITS) for share in layer] for layer in point.shares]
    return payload


def payload_change(change: MetadataChange) -> dict[str, Any]:
    """Return the parts of the payload that other metadata replace."""
    return {"content_hash": change.content_hash, "metadata": with_terms(change.metadata)}


def point_of(payload: Mapping[str, Any], vector: Float32 = NO_VECTOR, latents: Float32 | None = None) -> Point:
    return Point(
        document_id=payload["document_id"],
        vector=vector,
        text=payload["text"],
        image_digest=payload["image_digest"],
        metadata=without_terms(payload["metadata"]),
        content_hash=payload["content_hash"],
        shares=_shares(payload),
        latents=latents,
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
    )


def _shares(payload: Mapping[str, Any]) -> Shares | None:
    layers = payload.get("shares")
    return None if layers is None else tuple((text, image) for text, image in layers)


def digests(payloads: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """Return the digests of the points that have an image."""
    digests_found = ((payload or {}).get("image_digest") for payload in payloads)
    return [digest for digest in digests_found if digest is not None]


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
