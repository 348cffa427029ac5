"""What client and child process say of a call that is not answered at once: a question that is too long for one call,
cut into parts of the collection, and a write that has to wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.errors import DependencyUnavailable

# Payloads that a filter reads in one call: 45 ms, and 5 more to find a slice among 100,000 points.
READS_PER_CALL = 10_000


@dataclass(frozen=True, slots=True)
class Slices:
    """In place of an answer: ask so many slices, one by one."""

    total: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of a collection by a hash of the point ids: no write moves a point to another."""

    total: int
    index: int


class Paused(DependencyUnavailable):
    """The collection is not written to for a moment: try again."""
