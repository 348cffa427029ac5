"""The number of prepared products that torch keeps. Without torch itself: what is set counts only before its first
product."""

from __future__ import annotations

import os

_VARIABLES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def keep_prepared(shapes: int) -> None:
    """Limit how many shapes of a product torch and oneDNN each keep prepared on a CPU: 1,024 by default, at a third of
    a MB each. The environment of the process has precedence, then the first call."""
    for name in _VARIABLES:
        os.environ.setdefault(name, str(shapes))
