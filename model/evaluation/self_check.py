"""A check whether a loaded model works: tried on a text, an image and both, without golden outputs to compare with."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.retriever import Retriever
from model.types import Float32, Input, Limits, Role

_TOLERANCE = 1e-4  # of a batch against its inputs one by one, in float32
_TEXT = "a photograph of a cat beside a red bicycle"


@dataclass(frozen=True, slots=True)
class Check:
    """One trial, its result, and whether it is right."""

    name: str
    outcome: str
    passed: bool


def self_check(retriever: Retriever) -> list[Check]:
    """Embed a text, an image and both, in both roles: finite, of unit length, the same in a batch and alone, not all
    alike."""
    items = [Input(_TEXT), Input("a"), Input(image=_gradient(60, 40)), Input(_TEXT, _gradient(30, 90))]
    batches = {role: _encode(retriever, items, role) for role in Role}
    vectors = np.concatenate(list(batches.values()))
    norms = np.linalg.norm(vectors, axis=1)
    alone = np.concatenate([_encode(retriever, [item], role) for role in Role for item in items])
    difference = float(np.abs(vectors - alone).max())
    documents = batches[Role.DOCUMENT]
    likeness = float((documents @ documents.T - 2 * np.eye(len(items))).max())
    return [
        Check("finite", f"{vectors.size} values", bool(np.isfinite(vectors).all())),
        Check("unit length", f"{norms.min():.6f} to {norms.max():.6f}", bool(np.allclose(norms, 1, atol=1e-3))),
        Check("batch = single", f"largest difference {difference:.1e}", difference <= _TOLERANCE),
        Check("inputs differ", f"largest similarity {likeness:.3f}", likeness < 0.9999),
    ]


def _encode(retriever: Retriever, items: list[Input], role: Role) -> Float32:
    return retriever.encode([retriever.prepare(item, role, Limits()) for item in items])


def _gradient(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
