"""The time of one search: where it went, and how much is left of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """Milliseconds per stage of one search. Decoding includes fetching the query's image."""

    # None: as long as it takes.
    timeout_s: float | None = None
    began: float = field(default_factory=time.perf_counter)
    decode_ms: float = 0.0
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    store_ms: float = 0.0

    @property
    def passed_ms(self) -> float:
        return (time.perf_counter() - self.began) * 1e3

    @property
    def remaining_s(self) -> float | None:
        return None if self.timeout_s is None else max(0.0, self.timeout_s - self.passed_ms / 1e3)

    @contextmanager
    def in_store(self) -> Iterator[None]:
        """Count what is done meanwhile as time of the store."""
        began = time.perf_counter()
        yield
        self.store_ms += (time.perf_counter() - began) * 1e3

    def timings(self) -> dict[str, float]:
        """Return `TimingsOut` as plain data."""
        stages = {
            "decode_ms": self.decode_ms,
            "queue_ms": self.queue_ms,
            "encode_ms": self.encode_ms,
            "store_ms": self.store_ms,
            "total_ms": self.passed_ms,
        }
        return {name: round(value, 3) for name, value in stages.items()}
