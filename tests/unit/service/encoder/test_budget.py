"""The budget of a batch follows the machine: a played device whose speed is a function of the batch."""

from __future__ import annotations

import pytest

from service.encoder.budget import MAX_BATCH_COST, MIN_BATCH_COST, Budget


class Served:
    """Full batches one after the other, on a device with a fixed time for each batch and one for its cost."""

    def __init__(self, cost: int, fill: float = 1.0, *, fixed: bool = False, overhead_s: float = 0.05) -> None:
        self.now_s = 0.0
        self.fill = fill
        self.slowness = 1.0
        self._overhead_s = overhead_s
        self.budget = Budget(cost, fixed=fixed, clock=lambda: self.now_s)

    def run(self, seconds: float) -> int:
        until = self.now_s + seconds
        while self.now_s < until:
            cost = int(self.budget.cost * self.fill)
            took_s = self.slowness * (self._overhead_s + cost / 20_000)
            self.now_s += took_s
            self.budget.observe(cost, took_s)
        return self.budget._own


def test_a_start_on_a_busy_machine_is_corrected() -> None:
    """Of 512, 1,024, ... the last that is a tenth faster than the one before is 8,192."""
    assert Served(MIN_BATCH_COST).run(300) == 8_192


def test_a_budget_that_is_larger_than_it_has_to_be_shrinks() -> None:
    assert Served(65_536).run(900) == 8_192


def test_it_stays_where_it_is_right_and_looks_ever_less_often() -> None:
    served = Served(8_192)
    assert served.run(300) == 8_192
    assert served.budget._pause_s >= 80


def test_a_slow_minute_changes_nothing() -> None:
    """Both sizes are compared in turn, so what slows down the machine slows down both."""
    served = Served(8_192)
    served.run(30)
    served.slowness = 8.0
    assert served.run(120) == 8_192


@pytest.mark.parametrize("fill", [0.1, 0.7])
def test_batches_that_are_not_full_say_nothing(fill: float) -> None:
    assert Served(MIN_BATCH_COST, fill).run(120) == MIN_BATCH_COST


def test_a_comparison_ends_when_the_load_does() -> None:
    served = Served(MIN_BATCH_COST)
    while served.budget._trial is None:
        served.run(1)
    served.fill = 0.1
    served.run(60)
    assert served.budget._trial is None
    assert served.budget.cost == MIN_BATCH_COST


def test_a_budget_of_the_settings_is_fixed() -> None:
    assert Served(MIN_BATCH_COST, fixed=True).run(120) == MIN_BATCH_COST


def test_it_stays_within_its_bounds() -> None:
    assert Served(MAX_BATCH_COST, overhead_s=100).run(20_000) == MAX_BATCH_COST
