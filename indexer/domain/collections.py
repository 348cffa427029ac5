"""Collections, their generations while they are reindexed, and their counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from indexer.filters import FieldType


@dataclass(frozen=True, slots=True)
class PassageSettings:
    """How the texts of a collection are cut into passages: of how many tokens at most (None: as many as the model
    reads), and how many of them are repeated from the passage before. Not `enabled`: a text has one embedding, of its
    beginning."""

    enabled: bool = True
    tokens: int | None = None
    overlap: int = 0

    @property
    def stamp(self) -> str:
        """What tells documents that were cut in this way from others; empty for the default."""
        if not self.enabled:
            return "whole"
        return "" if self == PassageSettings() else f"{self.tokens or 'model'}+{self.overlap}"


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and the model that fills it; vectors of another fingerprint are refused.

    `paused`: nothing is written to it just now, for it is being switched to another generation.
    """

    name: str
    fingerprint: str
    model: str
    dimensions: int
    created_at: float
    instruction: str | None = None
    limit: int | None = None  # hits of a search that says nothing
    indexes: Mapping[str, FieldType] = field(default_factory=dict)  # the declared types of metadata fields
    passages: PassageSettings = PassageSettings()
    generation: int = 0
    paused: bool = False
    # The precisions in which each model that filled it, by its fingerprint, was computed.
    precisions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def filled_by(self, fingerprint: str, *precisions: str) -> Collection:
        """Return the collection with more precisions of a model."""
        every = {*self.precisions.get(fingerprint, ()), *precisions}
        return replace(self, precisions={**self.precisions, fingerprint: tuple(sorted(every))})

    @property
    def points_name(self) -> str:
        """What the points of its present generation are called in the store."""
        return points_name(self.name, self.generation)

    def other(self, reindex: Reindex) -> Collection:
        """Return the collection as its other generation has it."""
        model = {"fingerprint": reindex.fingerprint, "model": reindex.model, "dimensions": reindex.dimensions}
        return replace(self, generation=reindex.generation, **model)  # type: ignore[arg-type]


class ReindexState(StrEnum):
    """The state of the other generation of a collection.

    filling -> switching -> kept -> dropping. Switching falls back to filling when it takes too long. kept ->
    rolling_back -> dropping rolls back; a rollback that takes too long lets writes go on and is tried again.
    """

    FILLING = "filling"
    SWITCHING = "switching"
    # The other generation is the previous one, for a rollback.
    KEPT = "kept"
    ROLLING_BACK = "rolling_back"
    # Nobody reads the other generation any more.
    DROPPING = "dropping"

    @property
    def before_switch(self) -> bool:
        return self in (ReindexState.FILLING, ReindexState.SWITCHING)


@dataclass(frozen=True, slots=True)
class Reindex:
    """The other generation of a collection: the one being filled, or the previous one. Times are Unix seconds.

    `version` counts the changes of state: a process that changes the state says from which version.
    """

    collection: str
    generation: int
    fingerprint: str
    model: str
    dimensions: int
    state: ReindexState
    version: int
    job_id: str
    # When this state began.
    since: float
    # The last point of the serving generation that the scan has passed.
    cursor: str | None = None
    scanned: bool = False
    passes: int = 1
    max_failures: int = 0
    # When a generation that is kept or dropping is deleted.
    until: float | None = None

    @property
    def points_name(self) -> str:
        return points_name(self.collection, self.generation)

    def seconds_left(self, now: float) -> float:
        """Return the seconds until `until`. An end further away than twice its wait is over: the clock was set back
        since."""
        end = self.until or 0.0
        return 0.0 if end <= now or end - now > 2 * (end - self.since) else end - now


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents of a collection that are not in the index: accepted and waiting, and failed without a later write."""

    pending: int
    failed: int


def points_name(collection: str, generation: int) -> str:
    """Return the name of a generation's points in the store. `~` occurs in no collection's name."""
    return f"{collection}~{generation}" if generation else collection
