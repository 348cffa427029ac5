"""The vectors that both Qdrant engines are given."""

from __future__ import annotations

import numpy as np

from model.errors import InvalidInput
from model.inputs import Float32


def unit(vector: Float32, dimensions: int, of: str) -> Float32:
    """The vector at length 1, by way of float64 so that no finite input overflows. Qdrant would store NaN and zero (promise 12)."""
    if vector.shape != (dimensions,):
        raise InvalidInput(
            f"vector of {of} has shape {vector.shape}, the collection's is ({dimensions},)", limit=dimensions
        )
    exact = vector.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    if not np.isfinite(norm) or norm == 0:
        raise InvalidInput(f"vector of {of} has norm {norm}, which must be finite and over 0", value=str(norm))
    return (exact / norm).astype(np.float32)


def just_below(score_threshold: float) -> float:
    """An engine may want scores over its threshold, ours are at or over it."""
    return float(np.nextafter(np.float32(score_threshold), np.float32("-inf")))
