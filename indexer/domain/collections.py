"""Collections, their generations while they are reindexed, and their counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from indexer.filters import FieldType


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and the model that fills it; vectors of another fingerprint are refused (promise 9).

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
    generation: int = 0
    paused: bool = False

    @property
    def points_name(self) -> str:
        """What the points of its present generation are called in the store."""
        return points_name(self.name, self.generation)

    def other(self, reindex: Reindex) -> Collection:
        """The collection as its other generation is."""
        model = {"fingerprint": reindex.fingerprint, "model": reindex.model, "dimensions": reindex.dimensions}
        return replace(self, generation=reindex.generation, **model)  # type: ignore[arg-type]


class ReindexState(StrEnum):
    """fills -> switches -> keeps -> drops; back to fills when the switch is not done in time, and from keeps by way of returns.
    A return that is not done in time lets writes go on, and is tried again."""

    FILLS = "filling"
    SWITCHES = "switching"
    KEEPS = "kept"  # the other generation is the previous one, for a rollback
    RETURNS = "rolling_back"
    DROPS = "dropping"  # nobody asks for the other generation any more

    @property
    def before_switch(self) -> bool:
        return self in (ReindexState.FILLS, ReindexState.SWITCHES)


@dataclass(frozen=True, slots=True)
class Reindex:
    """The other generation of a collection: the one being filled, or the previous one. Times are Unix seconds.

    `version` counts the changes of state: whoever moves it on says from which.
    """

    collection: str
    generation: int
    fingerprint: str
    model: str
    dimensions: int
    state: ReindexState
    version: int
    job_id: str
    since: float  # of this state
    cursor: str | None = None  # the last point of the serving generation that the scan has passed
    scanned: bool = False
    passes: int = 1
    max_failures: int = 0
    until: float | None = None  # kept, or about to be dropped

    @property
    def points_name(self) -> str:
        return points_name(self.collection, self.generation)


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents of a collection that are not in the index: accepted and waiting, and failed without a later write."""

    pending: int
    failed: int


def points_name(collection: str, generation: int) -> str:
    """`~` is in no collection's name."""
    return f"{collection}~{generation}" if generation else collection
