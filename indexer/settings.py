"""Bounds of ingestion as plain data; `service.settings` fills them from the environment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IndexerSettings:
    batch_documents: int = 64  # documents of one ledger batch, one encoder call and one upsert
    max_attempts: int = (
        8  # of a batch, before its documents are failures; counted only where a document may be at fault
    )
    lease_s: float = 60.0
    retry_base_s: float = 0.5
    retry_max_s: float = 60.0
    concurrency: int = 2  # encoder calls in flight in one worker
    poll_s: float = 5.0  # how often to look for what another process did; what this one does wakes whoever waits
    job_retention_s: float = (
        7 * 86400.0
    )  # finished jobs are kept for this long, with their failures and idempotency keys
    reindex_grace_s: float = 3600.0  # how long the previous generation is kept and written to, for a rollback
    reindex_linger_s: float = 30.0  # how long a generation that was given up outlives the searches under way in it
