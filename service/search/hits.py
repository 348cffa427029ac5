"""Hits and documents as they are answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from indexer.blobs.thumbnails import ThumbnailWidth
from indexer.domain.points import Hit, Point
from indexer.filters import steps
from model.types import SHARE_DIGITS, Float32, Shares
from service.keys import Key
from service.schemas.search import SearchIn
from service.search.query import EncodedQuery


def name_for(caller: Key, requested: str, own: str) -> str:
    """Return the name by which a caller can ask for a collection: its own, or the alias where the key is for that
    alone."""
    return own if caller.sees(own) else requested


def hit_wire(collection: str, hit: Hit, search: SearchIn, query: EncodedQuery) -> dict[str, Any]:
    """Return `HitOut` as plain data, with what the search asked for."""
    content = content_wire(collection, hit, with_vector=search.with_vector)
    wire = {**content, "score": hit.score, "metadata": selected(hit.metadata, search.metadata_fields)}
    return {**wire, "explanation": explanation(query, hit)} if search.explain else wire


def content_wire(collection: str, content: Hit | Point, *, with_vector: bool) -> dict[str, Any]:
    """Return `ContentOut` as plain data."""
    wire = {
        "id": content.document_id,
        "text": content.text,
        "image_url": image_url(collection, content.document_id, content.image_digest),
        "thumbnail_url": thumbnail_url(collection, content.document_id, content.image_digest),
        "metadata": dict(content.metadata),
    }
    return {**wire, "vector": content.vector} if with_vector else wire


def image_url(collection: str, document_id: str, digest: str | None) -> str | None:
    """Return a path of this service. It holds the image's digest, so that a browser may cache the image for good."""
    if digest is None:
        return None
    return f"/collections/{quote(collection)}/documents/{quote(document_id, safe='')}/image?v={digest[:16]}"


def thumbnail_url(collection: str, document_id: str, digest: str | None) -> str | None:
    """Return the path of a small copy of the image, which may be cached as the image may."""
    url = image_url(collection, document_id, digest)
    return None if url is None else f"{url}&width={ThumbnailWidth.SMALL}"


def selected(metadata: Mapping[str, Any], fields: bool | Sequence[str]) -> dict[str, Any]:
    """Return the metadata with these fields only, each named by its path; True: all of it, False: nothing."""
    if isinstance(fields, bool):
        return dict(metadata) if fields else {}
    return _selected(metadata, _field_tree(tuple(fields)))


@lru_cache(maxsize=256)
def _field_tree(fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys of the paths as nested mappings, None for a whole field. Built once for all hits of a search."""
    tree: dict[str, Any] = {}
    for path in map(steps, fields):
        node: Any = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
            if node is None:
                break
        else:
            node[path[-1]] = None
    return tree


def _selected(metadata: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {}
    for key, value in metadata.items():
        if key not in tree:
            continue
        if tree[key] is None:
            chosen[key] = value
        elif isinstance(value, Mapping) and (part := _selected(value, tree[key])):
            chosen[key] = part
    return chosen


# --- explanations: docs/explain.md says what each number is


def explanation(query: EncodedQuery, hit: Hit) -> dict[str, Any]:
    """Return `ExplanationOut` of a hit that has its vector."""
    return {
        "document": _layers(hit.shares),
        "query": _layers(query.shares),
        "similarity": _similarity(query.vector, hit),
        "without_text": _similarity(query.without_text, hit),
        "without_image": _similarity(query.without_image, hit),
        "lexical": hit.lexical and {"score": hit.lexical.score, "share": round(hit.lexical.share, SHARE_DIGITS)},
    }


def _layers(shares: Shares | None) -> dict[str, Any] | None:
    if shares is None:
        return None
    layers = [
        {"layer": layer, "text": round(text, SHARE_DIGITS), "image": round(image, SHARE_DIGITS)}
        for layer, (text, image) in enumerate(shares)
    ]
    return {"layers": layers}


def _similarity(part: Float32 | None, hit: Hit) -> float | None:
    """Return the cosine: both vectors are of unit length."""
    return None if part is None or hit.vector is None else float(part @ hit.vector)
