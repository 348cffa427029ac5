"""The cost that one batch of a model may have: measured at the start, and corrected while the model serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

# Smaller batches are no faster for searches, and slower for their cost: of texts of 16 tokens each, 32 are 1.5 times as
# fast as 8.
MIN_BATCH_COST = 512
MAX_BATCH_COST = 131_072
# Batches are doubled, and searches wait twice as long behind them, if that is this much faster.
MIN_SPEEDUP_TO_DOUBLE = 1.1
# A batch says something about its budget if it has at least this part of it.
_MIN_FILL = 0.75
# Batches of each size that are compared, in turn. The fastest counts, for other work of the machine only slows down.
_COMPARED = 4
# After a comparison that changed nothing the next one waits twice as long, up to the most.
_LEAST_PAUSE_S, _MOST_PAUSE_S = 5.0, 300.0
# A comparison that takes longer is given up: too few full batches come.
_COMPARISON_S = 20.0


class Budget:
    """The budget of one model. Thread-safe.

    From time to time, when full batches come one after the other, some have twice the budget, or half of it, and the
    budget becomes the smallest that is about as fast as any. A start on a busy machine is corrected so.
    """

    def __init__(
        self, cost: int, *, fixed: bool = False, name: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._own, self._fixed, self._name, self._clock = cost, fixed, name, clock
        self._lock = threading.Lock()
        self._trial: int | None = None
        self._grows = True
        self._rates: dict[int, list[float]] = {}
        self._pause_s = _LEAST_PAUSE_S
        self._next_trial = clock() + _LEAST_PAUSE_S
        self._trial_ends = 0.0

    @property
    def cost(self) -> int:
        """The cost that the next batch may have."""
        with self._lock:
            if self._trial is None:
                return self._own
            own, trial = (len(self._rates[size]) for size in (self._own, self._trial))
            return self._own if own <= trial else self._trial

    def observe(self, cost: int, seconds: float) -> None:
        """Note the cost of a batch, and how long the device was busy with it."""
        if self._fixed or seconds <= 0:
            return
        with self._lock:
            if self._trial is None:
                self._begin(cost)
                return
            # The batch was formed under one of the two budgets: the largest that it fits into and fills.
            for size in sorted(self._rates):
                if size * _MIN_FILL <= cost <= size and len(self._rates[size]) < _COMPARED:
                    self._rates[size].append(cost / seconds)
                    break
            if all(len(rates) == _COMPARED for rates in self._rates.values()):
                self._decide(self._trial)
            elif self._clock() > self._trial_ends:
                self._trial = None
                self._rest(changed=False)

    def _begin(self, cost: int) -> None:
        """Begin a comparison after a full batch, when it is time for one."""
        if cost < self._own * _MIN_FILL or self._clock() < self._next_trial:
            return
        trial = self._own * 2 if self._grows else self._own // 2
        if MIN_BATCH_COST <= trial <= MAX_BATCH_COST:
            self._trial, self._rates = trial, {self._own: [], trial: []}
            self._trial_ends = self._clock() + _COMPARISON_S
        else:
            self._rest(changed=False)

    def _decide(self, trial: int) -> None:
        small, large = min(self._own, trial), max(self._own, trial)
        rates = {size: max(self._rates[size]) for size in (small, large)}
        best = large if rates[large] > rates[small] * MIN_SPEEDUP_TO_DOUBLE else small
        changed = best != self._own
        if changed:
            log.info(
                "batch budget changed",
                model=self._name,
                cost=best,
                previous=self._own,
                cost_per_s=round(rates[best]),
                previous_cost_per_s=round(rates[self._own]),
            )
        self._own, self._trial = best, None
        self._rest(changed=changed)

    def _rest(self, *, changed: bool) -> None:
        """Pause before the next comparison. Go on in the direction that brought a change, else turn round."""
        self._pause_s = _LEAST_PAUSE_S if changed else min(2 * self._pause_s, _MOST_PAUSE_S)
        self._grows = self._grows if changed else not self._grows
        self._next_trial = self._clock() + self._pause_s
