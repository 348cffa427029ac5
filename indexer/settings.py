"""Bounds of ingestion."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.backoff import Backoff
from model.settings import setting


@dataclass(frozen=True, slots=True)
class IndexerSettings:
    # And of one batch of the ledger.
    batch_documents: int = setting(
        64, "index_batch_documents", "documents of one encoder call and one upsert", gt=0, le=256
    )
    # Counted only where a document may be at fault.
    max_attempts: int = setting(8, "index_max_attempts", "attempts at a batch before its documents are failures", gt=0)
    lease_s: float = 60.0
    retry_base_s: float = 0.5
    retry_max_s: float = 60.0
    concurrency: int = setting(2, "index_concurrency", "batches a worker has in flight", gt=0)
    poll_s: float = 5.0  # how often to look for what another process did; what this one does wakes whoever waits
    job_retention_s: float = (
        7 * 86400.0
    )  # finished jobs are kept for this long, with their failures and idempotency keys
    # It is written to as well.
    reindex_grace_s: float = setting(
        3600.0,
        "reindex_grace_s",
        "how long after a reindex the previous generation is kept for a rollback",
        ge=0,
    )
    reindex_linger_s: float = 30.0  # how long a generation that was given up outlives the searches under way in it
    # The longest that the switch of a reindex keeps writes waiting; one encoder call is usual.
    max_pause_s: float = 30.0

    @property
    def backoff(self) -> Backoff:
        return Backoff(self.retry_base_s, self.retry_max_s)
