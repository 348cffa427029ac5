"""Back-off as a pure function: it grows, it is bounded, and it is not the same for everybody."""

import random

from indexer.backoff import delay_after_s, delay_s
from indexer.settings import IndexerSettings
from model.errors import DependencyUnavailable, Overloaded

SETTINGS = IndexerSettings(retry_base_s=0.5, retry_max_s=60.0)


def test_delays_double_up_to_the_longest() -> None:
    for tries in range(200):
        ceiling = min(60.0, 0.5 * 2.0**tries)
        delays = [delay_s(tries, SETTINGS, random.Random(seed)) for seed in range(50)]
        assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
        assert len(set(delays)) > 40


def test_what_the_other_side_asks_for_is_respected_within_the_longest() -> None:
    rng = random.Random(0)
    assert delay_after_s(Overloaded(retry_after_s=20.0), 0, SETTINGS, rng) == 20.0
    assert delay_after_s(Overloaded(retry_after_s=9_000.0), 0, SETTINGS, rng) == 60.0
    assert delay_after_s(Overloaded(retry_after_s=0.0), 3, SETTINGS, rng) >= 2.0
    assert delay_after_s(DependencyUnavailable(), 0, SETTINGS, rng) <= 0.5
