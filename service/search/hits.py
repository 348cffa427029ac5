"""Hits as they are answered, with their explanations, and the name of their collection for the caller."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from indexer.domain.points import Hit
from indexer.store.base import Points
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


async def with_best_parts(hits: list[Hit], query: EncodedQuery, points: Points) -> list[Hit]:
    """Return the hits with the part that each was found by, and its vector and shares in place of the document's."""
    several = [hit for hit in hits if hit.parts]
    if query.vector is None or not several:
        return hits
    best = await points.best_parts(query.vector, [hit.document_id for hit in several])
    nearest = dict(zip([hit.document_id for hit in several], best, strict=True))
    return [_by_part(hit, nearest.get(hit.document_id)) for hit in hits]


def _by_part(hit: Hit, nearest: tuple[int, Float32] | None) -> Hit:
    # The document may have been written again since it was found.
    if nearest is None or nearest[0] >= len(hit.parts):
        return hit
    place, vector = nearest
    shares = hit.parts[place].shares
    return replace(hit, best_part=place, vector=None if hit.vector is None else vector, shares=shares)


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
