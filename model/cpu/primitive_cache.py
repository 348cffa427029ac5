"""How many prepared products torch keeps. Without torch itself: what is set counts only before its first product."""

from __future__ import annotations

import os

_VARIABLES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def keep_prepared(shapes: int) -> None:
    """On a CPU torch and oneDNN each keep what they have prepared for so many shapes of a product, 1,024 unless told: a
    third of a MB a piece. Who was first to say counts, the environment of the process before all."""
    for name in _VARIABLES:
        os.environ.setdefault(name, str(shapes))
