"""When to try again: pure functions of what happened before."""

from __future__ import annotations

import random

from indexer.settings import IndexerSettings
from model.errors import DependencyUnavailable, Overloaded, RetrievalError, TimedOut


class Died(DependencyUnavailable):
    """The process that was at work on this ended, or was given up, before it answered.

    A restart ends as a document that kills, so nothing is to blame at once: what was in hand is tried again alone.
    """

    failure: str  # the code of a document with which it happens every time


class EncoderDied(Died):
    """The encoder ended before it answered."""

    failure = "encoder_died"


class EncoderTimedOut(Died, TimedOut):
    """The encoder did not answer in time: it may be away or busy, or what it was given takes it too long."""

    failure = "encoder_timed_out"


class StoreDied(Died):
    """The store ended before it answered."""

    failure = "store_died"


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
