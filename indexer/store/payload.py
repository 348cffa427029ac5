"""One point's payload and field paths, written alike by both Qdrant engines so that their folders can be told by one reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.filters import steps
from indexer.records import Hit, Point
from model.inputs import Float32


def payload_of(point: Point) -> dict[str, Any]:
    return {
        "document_id": point.document_id,
        "text": point.text,
        "image_digest": point.image_digest,
        "content_hash": point.content_hash,
        "metadata": dict(point.metadata),
    }


def point_of(payload: Mapping[str, Any], vector: Float32) -> Point:
    return Point(
        document_id=payload["document_id"],
        vector=vector,
        text=payload["text"],
        image_digest=payload["image_digest"],
        metadata=payload["metadata"],
        content_hash=payload["content_hash"],
    )


def hit_of(payload: Mapping[str, Any], score: float, vector: Float32 | None) -> Hit:
    return Hit(
        document_id=payload["document_id"],
        score=score,
        text=payload["text"],
        image_digest=payload["image_digest"],
        metadata=payload["metadata"],
        vector=vector,
    )


def metadata_path(field: str) -> str:
    """A metadata field as a Qdrant JSON path. Every key is quoted, so that spaces, dashes and brackets are plain characters."""
    return ".".join(["metadata", *(f'"{key}"' for key in steps(field))])
