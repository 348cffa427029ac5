"""Why a hit is a hit: what of the query and of the document came from text and from image, and what each half of the query finds.

`docs/explain.md` says what each number is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from indexer.domain.points import Hit
from model.types import SHARE_DIGITS, Embedding, Float32, Input, Shares


@dataclass(frozen=True, slots=True)
class Asked:
    """The query as the model saw it. The halves are there when an explanation was asked for and the query has both."""

    vector: Float32 | None = None  # (D,); None where the words alone were asked
    shares: Shares | None = None
    without_text: Float32 | None = None
    without_image: Float32 | None = None
    latents: Float32 | None = None  # (K, D)
    text: str | None = None  # the words it brings


def halves(item: Input) -> list[Input]:
    """What is encoded beside a query to explain it: its image alone and its text alone, if it has both."""
    return [Input(image=item.image), Input(item.text)] if item.text and item.image is not None else []


def asked(whole: Embedding, parts: Sequence[Embedding]) -> Asked:
    """`parts` are the embeddings of `halves`."""
    without_text, without_image = (part.vector for part in parts) if parts else (None, None)
    return Asked(whole.vector, whole.shares, without_text, without_image, whole.latents)


def explanation(query: Asked, hit: Hit) -> dict[str, Any]:
    """`ExplanationOut` of a hit that has its vector."""
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
        {"layer": n, "text": round(text, SHARE_DIGITS), "image": round(image, SHARE_DIGITS)}
        for n, (text, image) in enumerate(shares)
    ]
    return {"layers": layers}


def _similarity(part: Float32 | None, hit: Hit) -> float | None:
    """The cosine: both are of unit length."""
    return None if part is None or hit.vector is None else float(part @ hit.vector)
