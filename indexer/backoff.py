"""How long to wait before trying again: pure functions of what happened before."""

from __future__ import annotations

import random

from indexer.settings import IndexerSettings
from model.errors import Overloaded, RetrievalError


def delay_s(tries: int, settings: IndexerSettings, rng: random.Random) -> float:
    """Exponential back-off with full jitter over its upper half: `tries` counts from 0."""
    ceiling = min(settings.retry_max_s, settings.retry_base_s * 2.0 ** min(tries, 30))
    return ceiling * rng.uniform(0.5, 1.0)


def delay_after_s(error: RetrievalError, tries: int, settings: IndexerSettings, rng: random.Random) -> float:
    """What the other side asks for, where it does (429), else the back-off."""
    backed_off = delay_s(tries, settings, rng)
    return (
        max(backed_off, min(error.retry_after_s, settings.retry_max_s)) if isinstance(error, Overloaded) else backed_off
    )
