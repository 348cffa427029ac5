"""What the client sends and returns, as frozen dataclasses."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer.domain.jobs import Failure, Job
from model.errors import InvalidInput

Image = bytes | Path | str  # a file's bytes, a file, or a URL or data URI


Example = str | Mapping[str, Any]  # a document's id, or {"text"?, "image"?}


@dataclass(frozen=True, slots=True)
class Search:
    """One search. `document_id` searches with a document that is already in the collection, `positive` and `negative`
    with examples of what is sought and what is not. What is None is left to the collection or the service."""

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

    def wire(self) -> dict[str, Any]:
        query = {
            "text": self.text,
            "image": None if self.image is None else image_wire(self.image),
            "instruction": self.instruction,
            "document_id": self.document_id,
            "positive": [_example(example) for example in self.positive] or None,
            "negative": [_example(example) for example in self.negative] or None,
        }
        fields = self.metadata_fields
        body = {
            "collection": self.collection,
            "query": _present(query),
            "limit": self.limit,
            "offset": self.offset or None,
            "filter": self.filter,
            "score_threshold": self.score_threshold,
            "with_vector": self.with_vector or None,
            "explain": self.explain or None,
            "mode": self.mode,
            "fusion": self.fusion,
            "rerank": self.rerank or None,
            "cursor": self.cursor,
            "group_by": self.group_by,
            "group_size": self.group_size,
            "metadata_fields": None if fields is True else fields if fields is False else list(fields),
            "timeout_s": self.timeout_s,
            "consistency": self.consistency,
        }
        return _present(body)


@dataclass(frozen=True, slots=True)
class Hit:
    """`image_url` and `thumbnail_url` are paths of the service; `explanation` is there when asked for, as
    docs/explain.md has it."""

    id: str
    score: float
    text: str | None = None
    image_url: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vector: Sequence[float] | None = None
    explanation: Mapping[str, Any] | None = None
    thumbnail_url: str | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one search went on the server."""

    decode_ms: float = 0.0
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    store_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    value: str | float | bool
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`cursor` leads to the hits behind these, None when there are none. With `group_by` the hits are in `groups`."""

    hits: tuple[Hit, ...]
    timings: Timings
    cursor: str | None = None
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A served model. Before it is loaded, and when it could not be, all but name, state and detail is None.

    `state` is loading, ready or failed; `detail` says why it failed.
    """

    name: str
    state: str
    detail: str | None = None
    fingerprint: str | None = None
    dimensions: int | None = None
    modalities: tuple[str, ...] | None = None
    max_text_tokens: int | None = None
    image_size_px: int | None = None
    latents: int | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Info:
    """The service's version, its models, the default first, and the bounds on what may be sent, by the name of the
    setting."""

    version: str
    models: tuple[Model, ...]
    limits: Mapping[str, float]

    @property
    def default(self) -> Model:
        """The model of requests and new collections that name none."""
        return self.models[0]


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as it stands: `compatible` says whether the model that filled it is served now.

    `documents` are in the index, `pending` accepted and not yet, `failed` those whose last accepted write failed.
    `error`, in a list, says by `code` and `detail` why its index cannot be read, or its model is unavailable.
    """

    name: str
    documents: int
    model: str
    fingerprint: str
    dimensions: int
    created_at: float
    instruction: str | None = None
    compatible: bool = True
    pending: int = 0
    failed: int = 0
    size_bytes: int | None = None
    limit: int | None = None
    indexes: Mapping[str, str] = field(default_factory=dict)
    indexing: Sequence[str] = ()
    aliases: Sequence[str] = ()
    language: str | None = None
    latents: bool = False
    generation: int = 0
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    generation: int
    model: str
    fingerprint: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Reindex:
    """The two generations of a collection. `job` is the id of the job that fills, or filled, the newer one."""

    collection: str
    state: str
    serving: Generation
    other: Generation
    job: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that was not accepted; `position` counts from 0 in what was given to `post_documents`."""

    position: int
    id: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Posted:
    """One request's worth of documents: the job that will index those accepted (None if none were), and the others."""

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

    @property
    def left(self) -> int:
        return self.sent - self.indexed - self.skipped - len(self.rejected) - len(self.failures)

    def require_all(self) -> None:
        """Raises `InvalidInput` unless every document is indexed, with how many are not and why the first is not."""
        reasons = [rejection.detail for rejection in self.rejected] + [problem.detail for problem in self.failures]
        if reasons or self.left:
            first = f"; the first: {reasons[0]}" if reasons else ""
            raise InvalidInput(f"{len(reasons) + self.left} of {self.sent} documents were not indexed{first}")


def image_wire(image: Image | Mapping[str, str]) -> Mapping[str, str] | str:
    """An image as it travels. Raises `InvalidInput` for a file that cannot be read."""
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


def _example(example: Example) -> str | dict[str, Any]:
    if isinstance(example, str):
        return example
    return {**example, "image": image_wire(example["image"])} if example.get("image") is not None else {**example}


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
