"""The names in paths, checked as everywhere, and jobs as they are answered."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path

from indexer.domain.jobs import Job
from indexer.domain.names import COLLECTION_NAME, DOCUMENT_ID

CollectionPath = Annotated[
    str, Path(alias="name", pattern=COLLECTION_NAME, description="the name of a collection", examples=["flags"])
]
DocumentPath = Annotated[
    str,
    Path(
        alias="id",
        pattern=DOCUMENT_ID,
        description="the document's id, with a slash in it written as %2F",
        examples=["flag:fr/borders"],
    ),
]


def job_wire(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "collection": job.collection,
        "kind": job.kind,
        "state": job.state,
        "accepted": job.accepted,
        "indexed": job.indexed,
        "skipped": job.skipped,
        "failed": job.failed,
        "truncated": job.truncated,
        "cancelled": job.cancelled,
        "retry_of": job.retry_of,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "waiting_on": job.waiting_on,
        "progress": _progress(job),
    }


def _progress(job: Job) -> dict[str, Any] | None:
    if job.source is None:
        return None
    done = job.indexed + job.skipped + job.failed + job.cancelled
    took_s = (job.finished_at or job.updated_at) - (job.started_at or job.created_at)
    rate = done / took_s if done and took_s > 0 else None
    remaining_s = job.left / rate if rate and not job.growing else None
    return {
        "uri": job.source["uri"].partition("?")[0],
        "format": job.source["format"],
        "planned": not job.growing,
        "unread": job.unread,
        "left_out": job.source.get("left_out", {}),
        "documents_per_s": None if rate is None else round(rate, 3),
        "remaining_s": 0.0 if job.state.finished else None if remaining_s is None else round(remaining_s, 1),
    }
