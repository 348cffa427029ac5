"""What the client sends and returns. Answers of the service are the models that it writes them by."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from model.errors import InvalidInput
from service.schemas.collections import CollectionOut, GenerationOut, ReindexOut
from service.schemas.documents import RejectedOut
from service.schemas.facets import FacetsOut
from service.schemas.hits import DocumentOut, HitOut
from service.schemas.jobs import FailureOut, JobOut
from service.schemas.operations import InfoOut, ModelOut
from service.schemas.search import GroupOut, SearchOut, TimingsOut

Collection = CollectionOut
Document = DocumentOut
Facets = FacetsOut


class SearchMode(StrEnum):
    """How a search ranks: by embedding, by words, or by both."""

    FUSED = "fused"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


Failure = FailureOut
Generation = GenerationOut
Group = GroupOut
Hit = HitOut
Info = InfoOut
Job = JobOut
Model = ModelOut
Reindex = ReindexOut
Rejected = RejectedOut
SearchResult = SearchOut
Timings = TimingsOut

# A file's bytes, a file, or a URL or data URI.
Image = bytes | Path | str


Example = str | Mapping[str, Any]  # a document's id, or {"text"?, "image"?}


# A field, or with a minus before it the field descending, or {"field": …, "order": "asc" | "desc"}.
Sort = str | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Search:
    """One search; with `sort` and no query, a list of documents.

    `document_id` searches with a document that is already in the collection, `positive` and `negative` with examples of
    what is sought and what is not. What is None is left to the collection or the service.
    """

    collection: str
    text: str | None = None
    image: Image | None = None
    instruction: str | None = None
    document_id: str | None = None
    limit: int | None = None
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None
    with_vector: bool = False
    explain: bool = False
    highlight: bool = False
    mode: str | None = None
    fusion: Mapping[str, Any] | None = None
    rerank: bool | Mapping[str, Any] = False
    positive: Sequence[Example] = ()
    negative: Sequence[Example] = ()
    cursor: str | None = None
    group_by: str | None = None
    group_size: int | None = None
    metadata_fields: bool | Sequence[str] = True
    timeout_s: float | None = None
    consistency: str | None = None
    exact: bool = False
    ef: int | None = None
    weights: Mapping[str, float] | None = None
    sort: Sequence[Sort] = ()
    boost: Sequence[Mapping[str, Any]] = ()
    diversity: float = 0.0

    def wire(self) -> dict[str, Any]:
        query = {
            "text": self.text,
            "image": None if self.image is None else image_wire(self.image),
            "instruction": self.instruction,
            "document_id": self.document_id,
            "weights": self.weights,
            "positive": [_example(example) for example in self.positive] or None,
            "negative": [_example(example) for example in self.negative] or None,
        }
        fields = self.metadata_fields
        body = {
            "collection": self.collection,
            "query": _present(query) or None,
            "sort": [_sort(key) for key in self.sort] or None,
            "boost": list(self.boost) or None,
            "diversity": self.diversity or None,
            "limit": self.limit,
            "offset": self.offset or None,
            "filter": self.filter,
            "score_threshold": self.score_threshold,
            "with_vector": self.with_vector or None,
            "explain": self.explain or None,
            "highlight": self.highlight or None,
            "mode": self.mode,
            "fusion": self.fusion,
            "rerank": self.rerank or None,
            "cursor": self.cursor,
            "group_by": self.group_by,
            "group_size": self.group_size,
            "metadata_fields": None if fields is True else fields if fields is False else list(fields),
            "timeout_s": self.timeout_s,
            "consistency": self.consistency,
            "exact": self.exact or None,
            "ef": self.ef,
        }
        return _present(body)


@dataclass(frozen=True, slots=True)
class Posted:
    """One request's worth of documents: the job that will index those accepted (None if none were), and the others.
    Positions count from 0 in what was given to `post_documents`."""

    job: Job | None
    rejected: tuple[Rejected, ...]
    sent: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of everything given to `load`. Positions count from 0 in what was given.

    Skipped documents were there already, unchanged, or a later one of the same id took their place. Some are `left`
    only when a job was cancelled or gave up.
    """

    sent: int
    indexed: int
    skipped: int
    rejected: tuple[Rejected, ...]
    failures: tuple[Failure, ...]
    # Indexed documents of whose text a part has no embedding.
    truncated: int = 0

    @property
    def left(self) -> int:
        return self.sent - self.indexed - self.skipped - len(self.rejected) - len(self.failures)

    def require_all(self) -> None:
        """Raise `InvalidInput` unless every document is indexed. The message says how many are not, and why the first
        is not."""
        reasons = [rejection.detail for rejection in self.rejected] + [problem.detail for problem in self.failures]
        if reasons or self.left:
            first = f"; the first: {reasons[0]}" if reasons else ""
            raise InvalidInput(f"{len(reasons) + self.left} of {self.sent} documents were not indexed{first}")


def image_wire(image: Image | Mapping[str, str]) -> Mapping[str, str] | str:
    """Return an image in the form in which it is sent. Raises `InvalidInput` for a file that cannot be read."""
    if isinstance(image, Mapping):
        return image
    if isinstance(image, str):
        return image if image.startswith("data:") else {"url": image}
    content = _file(image) if isinstance(image, Path) else image
    return {"base64": base64.b64encode(content).decode("ascii")}


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"image {path} cannot be read: {error.strerror}") from error


def _sort(key: Sort) -> Mapping[str, str]:
    if isinstance(key, str):
        return {"field": key[1:], "order": "desc"} if key.startswith("-") else {"field": key}
    return key


def _example(example: Example) -> str | dict[str, Any]:
    if isinstance(example, str):
        return example
    return {**example, "image": image_wire(example["image"])} if example.get("image") is not None else {**example}


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
