"""The names in paths, checked as everywhere, and jobs as they are answered."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator

from indexer.records import Job
from service.limits import SLASH
from service.schemas import COLLECTION_NAME

CollectionPath = Annotated[str, Path(alias="name", pattern=COLLECTION_NAME)]


def _document_id(value: str) -> str:
    value = value.replace(SLASH, "/")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value):
        raise ValueError("a document id has no control characters")
    return value


DocumentPath = Annotated[str, Path(alias="id", min_length=1, max_length=512), AfterValidator(_document_id)]


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
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "waiting_on": job.waiting_on,
    }
