"""Batches that a worker has claimed together, as one: small ones fill an encoder call between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from indexer.domain.jobs import Batch, Outcome
from indexer.ledger.batches import Settled


@dataclass
class Claim:
    """Of one collection and kind, and no two with a document of the same id, as `Ledger.claim` gives them out.

    Whoever records outcomes of a batch and goes on with the rest of it puts that rest here.
    """

    batches: tuple[Batch, ...]

    @cached_property
    def whole(self) -> Batch:
        """All documents as one batch, numbered from 0."""
        documents = [document for batch in self.batches for _, document in batch.items]
        return replace(self.batches[0], items=tuple(enumerate(documents)), attempts=self.attempts)

    @property
    def attempts(self) -> int:
        return max(batch.attempts for batch in self.batches)

    @property
    def releases(self) -> int:
        return max(batch.releases for batch in self.batches)

    def settled(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Outcomes of `whole`, each with the batch it belongs to and its position there."""
        places = [(batch.id, position) for batch in self.batches for position, _ in batch.items]
        by_batch: dict[int, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            batch_id, position = places[outcome.position]
            by_batch[batch_id].append(replace(outcome, position=position))
        return [(batch, by_batch[batch.id]) for batch in self.batches]
