"""Back-off: the time before the next try, exponential, jittered and with a longest delay."""

from __future__ import annotations

import random
from dataclasses import dataclass

from model.errors import Overloaded, RetrievalError

# Doubling ends here: 2**64 times any delay is over every longest one.
_MAX_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """The one back-off of ret2. Delays double from `first_s` to `longest_s`.

    The upper half of each delay is drawn, so that callers that failed together do not come back together.
    """

    first_s: float
    longest_s: float

    def delay_s(self, tries: int, rng: random.Random) -> float:
        """Return the delay after `tries` earlier ones."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(tries, _MAX_DOUBLINGS))
        return ceiling * rng.uniform(0.5, 1.0)

    def delay_after_s(self, error: RetrievalError, tries: int, rng: random.Random) -> float:
        """Return the delay after an error: added to what the other side asks for, where it does (429)."""
        asked_s = min(error.retry_after_s, self.longest_s) if isinstance(error, Overloaded) else 0.0
        return asked_s + self.delay_s(tries, rng)
