"""Batches that a worker has claimed together: small ones share an encoder call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from indexer.domain.jobs import Batch, Outcome
from indexer.ledger.batches import Settled


@dataclass
class Claim:
    """Batches of one collection and kind, no two of them with a document of the same id, as the ledger hands them out.

    When outcomes of a batch are recorded and work on it goes on, `batches` is replaced by its remaining documents.
    """

    batches: tuple[Batch, ...]

    @cached_property
    def whole(self) -> Batch:
        """Return all documents as one batch, numbered from 0."""
        documents = [document for batch in self.batches for _, document in batch.items]
        return replace(self.batches[0], items=tuple(enumerate(documents)), attempts=self.attempts)

    @property
    def fetches(self) -> bool:
        """Whether images of its documents have to be fetched from URLs."""
        return any(_fetches(batch) for batch in self.batches)

    def split(self) -> list[Claim]:
        """Return the batches that fetch images and those that do not as claims of their own: these need not wait for
        those.
        """
        fetching = tuple(batch for batch in self.batches if _fetches(batch))
        plain = tuple(batch for batch in self.batches if not _fetches(batch))
        return [Claim(batches) for batches in (fetching, plain) if batches]

    @property
    def job_ids(self) -> list[str]:
        return list(dict.fromkeys(batch.job_id for batch in self.batches))

    @property
    def attempts(self) -> int:
        return max(batch.attempts for batch in self.batches)

    @property
    def releases(self) -> int:
        return max(batch.releases for batch in self.batches)

    def settled(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Return the outcomes of `whole` by batch, with their positions there."""
        places = [(batch.id, position) for batch in self.batches for position, _ in batch.items]
        by_batch: dict[int, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            batch_id, position = places[outcome.position]
            by_batch[batch_id].append(replace(outcome, position=position))
        return [(batch, by_batch[batch.id]) for batch in self.batches]


def _fetches(batch: Batch) -> bool:
    return any(image.url is not None for _, document in batch.items for image in document.images)
