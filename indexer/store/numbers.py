"""Numbers as the engines keep them: what is read back otherwise than it was written, and what filters make of that.

An engine keeps metadata as JSON and reads a number's digits as an integer times a power of ten, in doubles. That is
exact while the integer is below 2^53 and the power is one of the first 22; of other doubles, one in six comes back one
or two units in the last place away. Whole numbers written without a point are exact up to 2^63.
"""

from __future__ import annotations

import math

# Whole numbers from here on are compared by a search term, as the text of a double this large may be misread.
EXACT_BY_TERM = 10**15
SIGNED_END = 2**63

_EXACT_DIGITS = 2**53
_EXACT_POWER = 22
# What engine and server may each misread, in units in the last place; the stored value and the bound.
_MISREAD_UNITS = 4


def is_read_back(number: float) -> bool:
    """Return whether an engine reads this double back as it was written."""
    mantissa, _, power = repr(number).partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    if not whole.isdigit():
        return True  # NaN and infinities are refused elsewhere
    return int(whole + fraction) < _EXACT_DIGITS and abs(int(power or 0) - len(fraction)) <= _EXACT_POWER


def engine_number(number: float) -> float:
    """Return the number as an engine is given it: an `int` where it is exact as such, else a double."""
    if isinstance(number, int):
        return number if -SIGNED_END <= number < SIGNED_END else float(number)
    if not is_read_back(number) and number.is_integer() and -SIGNED_END <= number < SIGNED_END:
        return int(number)
    return number


def term_number(number: float) -> int | None:
    """Return the whole number that a search term stands for, None for numbers that engines compare themselves.

    From 2^53 on, where doubles run together, a double is no whole number.
    """
    if not math.isfinite(number) or abs(number) < EXACT_BY_TERM:
        return None
    if isinstance(number, int):
        return number
    return int(number) if number.is_integer() and abs(number) < _EXACT_DIGITS else None


def widened(bounds: dict[str, float]) -> dict[str, float]:
    """Return bounds that also take in values that were misread.

    A bound of at most 15 digits stays, and so does a whole number below 2^63. Around any other, values within 4 units
    in the last place count as the bound itself: they fulfil `gte` and `lte`, and neither `gt` nor `lt`.
    """
    outward = {"gt": math.inf, "gte": -math.inf, "lt": -math.inf, "lte": math.inf}
    return {name: _moved(bound, outward[name]) if _is_unsure(bound) else bound for name, bound in bounds.items()}


def legible(bounds: dict[str, float]) -> dict[str, float]:
    """Return bounds of the same meaning whose whole numbers a server reads as they are written.

    Over REST a bound is written with a point, so that one in seven of 16 digits is misread. Being at least such a
    number is being above the double before it, which is read rightly.
    """
    return dict(_legible(name, float(bound)) for name, bound in bounds.items())


def _legible(name: str, bound: float) -> tuple[str, float]:
    if is_read_back(bound) or not isinstance(engine_number(bound), int) or _as_read(bound) == bound:
        return name, bound
    twins = {"gte": ("gt", -math.inf), "gt": ("gte", math.inf), "lte": ("lt", math.inf), "lt": ("lte", -math.inf)}
    twin, towards = twins[name]
    return twin, math.nextafter(bound, towards)


def _as_read(number: float) -> float:
    """Return what a server makes of the text of a finite double."""
    mantissa, _, exponent = repr(number).partition("e")
    whole, _, fraction = mantissa.partition(".")
    power = int(exponent or 0) - len(fraction)
    digits = float(int(whole + fraction))
    return digits * 10.0**power if power >= 0 else digits / 10.0**-power


def _is_unsure(bound: float) -> bool:
    return not is_read_back(float(bound)) and not isinstance(engine_number(float(bound)), int)


def _moved(bound: float, towards: float) -> float:
    for _ in range(_MISREAD_UNITS):
        following = math.nextafter(bound, towards)
        bound = following or bound  # never to 0, which is read back
    return bound if math.isfinite(bound) else math.copysign(math.nextafter(math.inf, 0), towards)
