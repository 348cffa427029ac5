"""Numbers as the engines keep them, and the bounds that take in what they misread."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.store.numbers import engine_number, is_read_back, legible, term_number, widened


@pytest.mark.parametrize("number", [0.0, 0.1, -19.99, 1e22, 123456789012345.0, 3.5e-7, float("nan"), float("inf")])
def test_short_numbers_are_read_back(number: float) -> None:
    assert is_read_back(number)


@pytest.mark.parametrize(
    "number", [0.39335362306983956, -919199.0929144587, 3802147378782530.0, 1e23, 4.00155526396848e-09]
)
def test_long_numbers_and_large_powers_may_not_be(number: float) -> None:
    assert not is_read_back(number)


def test_engines_are_given_whole_numbers_as_such() -> None:
    assert [engine_number(number) for number in (2.0, 3802147378782530.0, 2**63 - 1)] == [
        2.0,
        3802147378782530,
        2**63 - 1,
    ]
    assert isinstance(engine_number(3802147378782530.0), int)
    assert isinstance(engine_number(2**63), float)
    assert engine_number(1e300) == 1e300


def test_large_whole_numbers_are_looked_up_as_terms() -> None:
    assert term_number(10**15 - 1) is None
    assert term_number(10**15) == term_number(1e15) == 10**15
    assert term_number(2**53 + 1) == 2**53 + 1
    assert term_number(float(2**53)) is None
    assert term_number(1e15 + 0.5) is None


def test_bounds_are_moved_outwards_only_where_numbers_may_be_misread() -> None:
    sure = {"gte": 19.99, "lt": 3802147378782530.0}
    assert widened(sure) == sure
    bound = 0.39335362306983956
    moved = widened(dict.fromkeys(("gt", "gte", "lt", "lte"), bound))
    assert moved["gte"] == moved["lt"] < bound < moved["gt"] == moved["lte"]
    assert moved["lte"] - bound == pytest.approx(4 * math.ulp(bound))
    assert widened({"gte": 5e-324})["gte"] > 0
    assert math.isfinite(widened({"lte": 1.7976931348623157e308})["lte"])


def test_a_whole_bound_that_a_server_would_misread_is_written_as_the_double_beside_it() -> None:
    misread = float(2**53 - 1)
    below, above = float(2**53 - 2), float(2**53)
    assert legible({"gte": misread, "lte": misread}) == {"gt": below, "lt": above}
    assert legible({"gt": misread, "lt": misread}) == {"gte": above, "lte": below}
    assert legible({"gte": -misread}) == {"gt": -above}
    sure = {"gte": 1e15, "lt": 0.39335362306983956, "lte": 1e300}
    assert legible(sure) == sure


@given(st.floats(1e15, 2.0**63, exclude_max=True) | st.integers(10**15, 2**53).map(float))
def test_every_whole_bound_is_written_so_that_a_server_reads_it(bound: float) -> None:
    if not bound.is_integer():
        return
    for sign in (1, -1):
        for name in ("gt", "gte", "lt", "lte"):
            ((written, number),) = legible({name: sign * bound}).items()
            assert as_a_server_reads(number) == number
            assert (written, number) == (name, sign * bound) or (written[:2] == name[:2] and written != name)


def as_a_server_reads(number: float) -> float:
    """Its digits as an integer, times or divided by a power of ten."""
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    assert isinstance(exponent, int)
    whole = float(int("".join(map(str, digits))))
    return (-1) ** sign * (whole * 10.0**exponent if exponent >= 0 else whole / 10.0**-exponent)
