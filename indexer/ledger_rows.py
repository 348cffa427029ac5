"""Rows of the ledger's tables as records, and a batch's documents as the JSON that they are kept as."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from indexer.records import Batch, Document, ImageRef, Job, JobKind, JobState


def as_job(row: sa.Row[Any]) -> Job:
    return Job(
        id=row.id,
        collection=row.collection,
        kind=JobKind(row.kind),
        state=JobState(row.state),
        accepted=row.accepted,
        indexed=row.indexed,
        skipped=row.skipped,
        failed=row.failed,
        created_at=row.created_at,
        updated_at=row.updated_at,
        waiting_on=row.waiting_on,
    )


def as_batch(row: sa.Row[Any], lease: str) -> Batch:
    kind, items = JobKind(row.kind), unpack(row.items)
    return Batch(row.id, row.job_id, row.collection, kind, row.attempts, row.releases, items, lease)


def pack(items: Sequence[tuple[int, Document]]) -> str:
    return json.dumps(
        [
            [
                position,
                one.id,
                one.text,
                one.image.digest if one.image else None,
                one.image.url if one.image else None,
                dict(one.metadata),
            ]
            for position, one in items
        ],
        ensure_ascii=False,
    )


def unpack(packed: str) -> tuple[tuple[int, Document], ...]:
    return tuple(
        (position, Document(key, text, ImageRef(digest, url) if digest or url else None, metadata))
        for position, key, text, digest, url, metadata in json.loads(packed)
    )
