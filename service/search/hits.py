"""Hits as they are answered, with their explanations, and the name of their collection for the caller."""

from __future__ import annotations

from typing import Any

from indexer.domain.points import Hit
from model.types import SHARE_DIGITS, Float32, Shares
from service.keys import Key
from service.schemas.hits import ABSENT, ContentView, HitOut, wire
from service.schemas.search import SearchIn
from service.search.query import EncodedQuery


def name_for(caller: Key, requested: str, own: str) -> str:
    """Return the name by which a caller can ask for a collection: its own, or the alias where the key is for that
    alone."""
    return own if caller.sees(own) else requested


def hit_wire(
    collection: str, hit: Hit, search: SearchIn, query: EncodedQuery, highlights: Any = ABSENT
) -> dict[str, Any]:
    """Return `HitOut` as plain data, with what the search asked for."""
    explained = explanation(query, hit) if search.explain else ABSENT
    return wire(HitOut, ContentView(hit, collection, search.metadata_fields, search.with_vector, explained, highlights))


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
        "boosts": list(hit.boosts),
        "closest": hit.closest,
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
