"""The arithmetic of every section: percentiles, ratios of runs that were made in turn, and the rows of the one table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

HEADER = ("section", "what", "measured", "against", "ratio (min–max)", "bar", "met")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` percent of the values do not exceed (nearest rank); no values: NaN."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share / 100 * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratios of pairs measured one right after the other: the median, and the extremes that machine noise made of it."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> Ratio:
        """Of (this, other) pairs; a pair with nothing in it (0, NaN) makes no ratio."""
        ratios = [this / other for this, other in pairs if this > 0 and other > 0]
        if not ratios:
            return cls(math.nan, math.nan, math.nan)
        return cls(median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        if math.isnan(self.middle):
            return ""
        return f"{self.middle:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is held against: `at least` or, where less is better, `at most`."""

    limit: float
    most: bool = False
    unit: str = ""

    def met_by(self, value: float) -> bool:
        """NaN meets nothing."""
        return value <= self.limit if self.most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.limit:g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `judged` is what the bar is about; None: the ratio's median."""

    section: str
    what: str
    measured: str
    against: str = ""
    ratio: Ratio | None = None
    bar: Bar | None = None
    judged: float | None = None

    @property
    def met(self) -> bool | None:
        """None where there is no bar or nothing was measured for it."""
        value = self.judged if self.judged is not None else self.ratio.middle if self.ratio else math.nan
        return None if self.bar is None or math.isnan(value) else self.bar.met_by(value)

    def cells(self) -> tuple[str, ...]:
        verdict = {True: "yes", False: "**no**", None: "?" if self.bar else ""}[self.met]
        ratio, bar = ("" if value is None else str(value) for value in (self.ratio, self.bar))
        return self.section, self.what, self.measured, self.against, ratio, bar, verdict


def markdown(rows: Iterable[Row]) -> str:
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"
