"""Percentiles, ratios of pairs, bars and the table."""

from __future__ import annotations

import math

import pytest

from benchmarks.figures import Bar, Ratio, Row, markdown, percentile


@pytest.mark.parametrize(("share", "expected"), [(50, 5), (95, 10), (90, 9), (0, 1), (100, 10)])
def test_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected


def test_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(percentile([], 50))


def test_ratio_is_the_median_of_pairs_not_of_sums() -> None:
    assert Ratio.of([(2, 1), (30, 10), (8, 2)]) == Ratio(3, 2, 4)


def test_pairs_without_a_measurement_make_no_ratio() -> None:
    assert Ratio.of([(0, 1), (math.nan, 2), (4, 2)]) == Ratio(2, 2, 2)
    assert str(Ratio.of([(0, 0)])) == ""


@pytest.mark.parametrize(
    ("bar", "value", "met"), [(Bar(2), 2, True), (Bar(2), 1.9, False), (Bar(2, most=True), 2, True), (Bar(2, most=True), 2.1, False)]
)  # fmt: skip
def test_a_bar_includes_its_limit(bar: Bar, value: float, met: bool) -> None:
    assert bar.met_by(value) is met


def test_a_row_is_judged_by_its_ratio_unless_it_says_otherwise() -> None:
    ratio = Ratio(3, 2, 4)
    assert Row("a", "x", "1", ratio=ratio, bar=Bar(2.5)).met is True
    assert Row("a", "x", "1", ratio=ratio, bar=Bar(2.5), judged=2.0).met is False
    assert Row("a", "x", "1", ratio=ratio).met is None
    assert Row("a", "x", "1", bar=Bar(1)).met is None


def test_the_table_has_as_many_cells_in_every_line() -> None:
    lines = markdown([Row("a", "x|y", "1/s"), Row("b", "z", "2/s", "w", Ratio(1, 1, 1), Bar(2), 1)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "**no**" in lines[-1]
