"""The bundled benchmark as plain data: images, documents and questions read from `datasets/atlas` (its README says how
they were made)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from model.errors import InvalidInput

FOLDER = Path(__file__).parents[2] / "datasets" / "atlas"
PARTS = ("flags", "emoji")


@dataclass(frozen=True, slots=True)
class AtlasDocument:
    id: str
    part: str
    subject: str
    topic: str
    title: str
    text: str
    image_id: str
    split: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AtlasQuery:
    """`question` speaks of "this country" and needs the picture; `question_named` stands alone."""

    id: str
    part: str
    subject: str
    topic: str
    question: str
    question_named: str
    image_ids: tuple[str, ...]  # by the artists that may be trained on
    heldout_image_id: str  # by the artist that may not
    positive_id: str
    split: str


@dataclass(frozen=True)
class Atlas:
    images: Mapping[str, bytes]  # PNG files by image id
    documents: tuple[AtlasDocument, ...]
    queries: tuple[AtlasQuery, ...]

    @cached_property
    def by_id(self) -> dict[str, AtlasDocument]:
        return {document.id: document for document in self.documents}

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Atlas:
        if not (folder / "documents.parquet").exists():
            raise InvalidInput(f"no atlas in {folder}; it is part of the repository, under datasets/atlas")
        images = pq.read_table(folder / "images.parquet", columns=["image_id", "png"]).to_pylist()
        documents = pq.read_table(folder / "documents.parquet").to_pylist()
        queries = pq.read_table(folder / "queries.parquet").to_pylist()
        return cls(
            images={row["image_id"]: row["png"] for row in images},
            documents=tuple(AtlasDocument(**{**row, "metadata": json.loads(row["metadata"])}) for row in documents),
            queries=tuple(AtlasQuery(**{**row, "image_ids": tuple(row["image_ids"])}) for row in queries),
        )
