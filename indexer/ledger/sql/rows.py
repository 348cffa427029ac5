"""Conversions between rows of the ledger and domain records, and between documents and their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from indexer.domain.collections import Collection, PassageSettings
from indexer.domain.documents import Document, GivenVector, ImageRef
from indexer.domain.jobs import Batch, Job, JobKind, JobState, Outcome, Status
from indexer.filters import FieldType
from indexer.ledger.sql.schema import jobs
from model.errors import NotFound

# A document with its position in the job.
Item = tuple[int, Document]


def as_collection(row: sa.Row[Any]) -> Collection:
    limit, indexes, precisions, passages = _settings(row.settings)
    return Collection(
        name=row.name,
        fingerprint=row.fingerprint,
        model=row.model,
        dimensions=row.dimensions,
        created_at=row.created_at,
        instruction=row.instruction,
        limit=limit,
        indexes=dict(indexes),
        passages=passages,
        generation=row.generation,
        paused=row.paused,
        precisions=dict(precisions),
    )


# Most of thousands of collections have the same settings, and a list reads all.
@lru_cache(1_024)
def _settings(
    text: str,
) -> tuple[int | None, Mapping[str, FieldType], Mapping[str, tuple[str, ...]], PassageSettings]:
    settings = json.loads(text)
    indexes = {name: FieldType(kind) for name, kind in settings.get("indexes", {}).items()}
    precisions = {model: tuple(names) for model, names in settings.get("precisions", {}).items()}
    return settings.get("limit"), indexes, precisions, PassageSettings(**settings.get("passages", {}))


def collection_row(collection: Collection) -> dict[str, Any]:
    values = asdict(collection)
    settings = {name: values.pop(name) for name in ("limit", "indexes", "precisions", "passages")}
    return {**values, "settings": json.dumps(settings, ensure_ascii=False)}


def no_collection(name: str) -> NotFound:
    return NotFound(f"there is no collection {name!r}", field="collection", value=name)


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
        cancelled=row.cancelled,
        cancelling=row.cancelling,
        finished_at=row.finished_at,
        retry_of=row.retry_of,
        source=None if row.source is None else json.loads(row.source),
        growing=row.growing,
        unread=row.unread,
        started_at=row.started_at,
        truncated=row.truncated,
    )


def find_job(connection: sa.Connection, job_id: str) -> Job:
    """Return a job. Raises `NotFound`."""
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise no_job(job_id)
    return as_job(row)


def no_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r:.100}", field="job", value=job_id)


def as_batch(row: sa.Row[Any], lease: str, crashes: int) -> Batch:
    return Batch(
        id=row.id,
        job_id=row.job_id,
        collection=row.collection,
        kind=JobKind(row.kind),
        attempts=row.attempts,
        releases=row.releases,
        items=unpack(row.items),
        lease=lease,
        crashes=crashes,
        suspect=row.suspect,
        trace=row._mapping.get("trace"),
    )


def pack(items: Sequence[Item]) -> str:
    return json.dumps(
        [
            [
                position,
                document.id,
                document.text,
                document.image.digest if document.image else None,
                document.image.url if document.image else None,
                dict(document.metadata),
                *(_vector(document.vector) if document.vector else ()),
                *([[(image.digest, image.url) for image in document.more_images]] if document.more_images else ()),
            ]
            for position, document in items
        ],
        ensure_ascii=False,
    )


def _vector(vector: GivenVector) -> tuple[str, ...]:
    return (vector.base64, vector.fingerprint, *((vector.spans,) if vector.spans else ()))


def unpack(packed: str) -> tuple[Item, ...]:
    return tuple(
        (
            position,
            Document(
                key,
                text,
                ImageRef(digest, url) if digest or url else None,
                metadata,
                GivenVector(*vector) if (vector := [part for part in parts if isinstance(part, str)]) else None,
                tuple(ImageRef(*image) for part in parts if isinstance(part, list) for image in part),
            ),
        )
        # Behind the metadata stand the texts of a vector, and a list of further images.
        for position, key, text, digest, url, metadata, *parts in json.loads(packed)
    )


def plain(text: str) -> str:
    """Replace what no database stores as text: PostgreSQL refuses zero bytes, and UTF-8 has no lone surrogates."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def add_outcomes(packed: str, outcomes: Sequence[Outcome]) -> str:
    added = [
        [item.position, item.document_id, item.status, item.code, item.detail]
        + ([item.truncated] if item.truncated else [])
        for item in outcomes
    ]
    return json.dumps([*json.loads(packed), *added])


def unpack_outcomes(packed: str) -> list[Outcome]:
    return [
        Outcome(position, key, Status(status), code, detail, *truncated)
        for position, key, status, code, detail, *truncated in json.loads(packed)
    ]
