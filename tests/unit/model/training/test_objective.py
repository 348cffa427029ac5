from __future__ import annotations

import random
from collections import Counter

import pytest

from model.training.objective import Kept, draw_kept, drop_modality, schedule
from model.training.settings import TrainSettings


@pytest.mark.parametrize(("rows", "keep_both"), [(160, 0.5), (64, 0.3), (7, 0.5), (3, 1.0), (5, 0.0)])
def test_a_batch_keeps_the_shares_asked_for_to_within_one_row(rows: int, keep_both: float) -> None:
    """Products of new shapes are slow: how many rows of each kind there are is not left to chance."""
    wanted = {Kept.BOTH: keep_both, Kept.TEXT: (1 - keep_both) / 2, Kept.IMAGE: (1 - keep_both) / 2}
    for seed in range(50):
        found = Counter(draw_kept(rows, keep_both, random.Random(seed)))
        assert all(abs(found[kind] - share * rows) <= 1 for kind, share in wanted.items())


def test_what_a_row_keeps_is_chance_alone() -> None:
    """A single row too, where no share comes out whole; and the first row of many as any other."""
    for rows, place in ((1, 0), (4, 0), (4, 3)):
        found = Counter(draw_kept(rows, 0.5, random.Random(seed))[place] for seed in range(2000))
        assert found[Kept.BOTH] == pytest.approx(1000, abs=100)
        assert found[Kept.TEXT] == pytest.approx(500, abs=80)


def test_a_text_that_is_left_alone_says_what_it_is_about() -> None:
    def drop(kept: Kept) -> tuple[str | None, str | None]:
        return drop_modality("what is this", "what is red", "picture", kept)

    assert drop(Kept.BOTH) == ("what is this", "picture")
    assert drop(Kept.TEXT) == ("what is red", None)
    assert drop(Kept.IMAGE) == (None, "picture")


def test_schedule_warms_up_and_decays() -> None:
    settings = TrainSettings(steps=100, warmup_steps=10)
    rates = [schedule(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 <= rates[-1] < 0.06
