"""The back-off grows, is bounded, and is not the same for everybody."""

import random

from indexer.backoff import Backoff
from model.errors import DependencyUnavailable, Overloaded

BACKOFF = Backoff(0.5, 60.0)


def test_delays_double_up_to_the_longest() -> None:
    for tries in (*range(200), 10_000):
        ceiling = min(60.0, 0.5 * 2.0 ** min(tries, 200))
        delays = [BACKOFF.delay_s(tries, random.Random(seed)) for seed in range(50)]
        assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
        assert len(set(delays)) > 40


def test_what_the_other_side_asks_for_is_respected_within_the_longest() -> None:
    """And jittered: those that were refused together do not come back together."""
    rng = random.Random(0)
    assert 20.0 < BACKOFF.delay_after_s(Overloaded(retry_after_s=20.0), 0, rng) <= 20.5
    assert 60.0 < BACKOFF.delay_after_s(Overloaded(retry_after_s=9_000.0), 0, rng) <= 60.5
    assert BACKOFF.delay_after_s(Overloaded(retry_after_s=0.0), 3, rng) >= 2.0
    assert BACKOFF.delay_after_s(DependencyUnavailable(), 0, rng) <= 0.5
