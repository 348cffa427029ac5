"""The two seams of a store: `Store` for collections, `Points` for the points of one collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from indexer.domain.points import Hit, MetadataChange, Page, Point, Stretch
from indexer.filters import FieldType, Filter
from indexer.store.bm25 import SIMPLE
from indexer.store.columns import Columns
from indexer.store.criteria import Criterion, Place, Ranked
from model.errors import InvalidInput, RetrievalError
from model.types import Float32

# How many copies of a shard a search asks.
Consistency = Literal["one", "majority", "quorum", "all"]
Quantization = Literal["none", "scalar", "binary", "product"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The contents of a collection's points, fixed at its creation."""

    dimensions: int
    # The language of the words of texts.
    language: str = SIMPLE
    latents: bool = False
    # Whether a point may have a vector for each part of its document. Collections of before have one a document.
    parts: bool = False
    # Whether the vectors of several parts are a vector of their own name, so that one alone is compared as one: in
    # half of the time. Only embedded collections have it.
    apart: bool = False


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a Qdrant server shall keep one collection. None leaves a present collection as it is, and a new one as the
    settings of the deployment say."""

    shards: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    quantization: Quantization | None = None
    vectors_on_disk: bool | None = None
    payload_on_disk: bool | None = None
    hnsw_m: int | None = None
    hnsw_ef_construct: int | None = None
    hnsw_ef: int | None = None

    def chosen(self) -> dict[str, Any]:
        """Return the options that are not None, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def changed_from(self, keeping: KeptOnServer) -> ServerOptions:
        """Return the options that differ from how a server keeps a collection."""
        present = asdict(keeping)
        return ServerOptions(**{name: value for name, value in self.chosen().items() if value != present[name]})


@dataclass(frozen=True, slots=True)
class KeptOnServer:
    """How a Qdrant server keeps a collection: its settings there, which that server's own API changes too, and its
    state, which is green, yellow, grey or red. `hnsw_ef` is the breadth of a search that names none."""

    status: str
    shards: int
    replication_factor: int
    write_consistency_factor: int
    quantization: str
    vectors_on_disk: bool
    payload_on_disk: bool
    hnsw_m: int
    hnsw_ef_construct: int
    hnsw_ef: int
    strict_mode: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """A collection as a list of collections shows it. `size_bytes` is None where the engine does not report it;
    `indexed` are the payload indexes by path, `upkeep` says what is built for it and what that waits for; `kept` is
    None in an embedded index."""

    layout: Layout
    documents: int
    size_bytes: int | None
    indexed: Mapping[str, FieldType]
    upkeep: tuple[str, ...] = ()
    kept: KeptOnServer | None = None


@dataclass(frozen=True, slots=True)
class SearchWindow:
    """The part of a ranking that a search reads, and how it reads it.

    `condition` and `score_threshold` decide what is ranked; `limit` and `offset` cut the window from that. Hits carry
    their vector only `with_vector`. `consistency` changes nothing where a shard has one copy; `exact` and `ef` change
    nothing where every vector is compared anyway. The caller waits no longer than `timeout_s`, so the engine may give
    up then.
    """

    limit: int
    offset: int = 0
    condition: Filter | None = None
    score_threshold: float | None = None
    with_vector: bool = False
    consistency: Consistency = "one"
    # Compare every vector, instead of those that a graph leads to.
    exact: bool = False
    # How many neighbours a graph is searched for; None: as the store does by itself.
    ef: int | None = None
    timeout_s: float | None = None

    @property
    def end(self) -> int:
        """The rank of the last hit, counted from 1."""
        return self.offset + self.limit

    def check(self) -> None:
        """Raise `InvalidInput` for a negative limit or offset."""
        for field, value in (("limit", self.limit), ("offset", self.offset)):
            if value < 0:
                raise InvalidInput(f"{field} is {value}, the least is 0", field=field, value=value, limit=0)

    def cut(self, ranked: Ranked) -> Ranked:
        """Return the part of a ranking, best first, that lies in this window."""
        if self.score_threshold is not None:
            ranked = [(point, score) for point, score in ranked if score >= self.score_threshold]
        return ranked[self.offset : self.end]


class Points(Protocol):
    """The points of one collection. Every method may raise `DependencyUnavailable`; writes return when they are
    durable.
    """

    async def upsert(self, points: Sequence[Point]) -> None: ...

    async def set_metadata(self, changes: Sequence[MetadataChange]) -> None:
        """Give documents other metadata. Everything else of their points stays, vectors too; a document that is not
        there is left out."""
        ...

    async def delete(self, document_ids: Sequence[str]) -> None: ...

    async def fetch(
        self, document_ids: Sequence[str], *, with_latents: bool = False, with_vectors: bool = True
    ) -> list[Point | None]:
        """Return points in the order of the ids, None for a missing one. Without vectors each has `NO_VECTOR`."""
        ...

    async def search(self, criterion: Criterion, window: SearchWindow) -> list[Hit]:
        """Return the hits in the window of a ranking. Best first, equal scores by point id. Raises `Conflict` for what
        the collection does not hold: see `layout`. Cancelling the call ends its work early.
        """
        ...

    async def rank(self, criterion: Criterion, window: SearchWindow) -> Sequence[Place]:
        """Return point ids and scores alone, as `search` orders them."""
        ...

    async def hits(
        self, places: Sequence[Place], *, with_vector: bool = False, consistency: Consistency = "one"
    ) -> list[Hit]:
        """Return the hits of these places in their order, without the documents deleted since. Vectors are read
        `with_vector` alone.
        """
        ...

    async def best_parts(self, vector: Float32, document_ids: Sequence[str]) -> list[tuple[int, Float32] | None]:
        """Return for each document the part nearest to `vector` (D,), and that part's vector; None for a document that
        is gone.
        """
        ...

    async def layout(self) -> Layout: ...

    async def count(self, condition: Filter | None = None) -> int:
        """Count the documents that satisfy the condition, exactly."""
        ...

    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        """Return a page of document ids in the order of their points, which no write changes. `after` comes from the
        page before."""
        ...

    async def scroll(
        self, after: str | None, limit: int, condition: Filter | None = None, *, with_vectors: bool = False
    ) -> Stretch:
        """Return the points of a page, in the same order. Without vectors each has `NO_VECTOR`."""
        ...

    @property
    def columns(self) -> Columns:
        """The metadata fields of these points."""
        ...

    async def images(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return the image digests of at most `limit` points, in the order of the points, which no write changes, and
        the next `after`, None after the last page."""
        ...


class Store(Protocol):
    """The collections of one engine. `close()` flushes; a store is opened once per process."""

    async def create(
        self,
        name: str,
        dimensions: int,
        indexes: Mapping[str, FieldType] | None = None,
        *,
        language: str | None = None,
        latents: bool | None = None,
        like: str | None = None,
        options: ServerOptions | None = None,
    ) -> None:
        """Make what is missing, and begin to build the indexes of declared metadata fields. Raises `Conflict` if the
        collection has another layout. None accepts any; a new collection then has the layout of `Layout`'s defaults,
        and a server keeps it like the collection `like`.

        `options` are for a new collection, and change a present one. Raises `InvalidInput` for what cannot be changed,
        and for any in an embedded index.
        """
        ...

    async def drop(self, name: str) -> None: ...

    def points(self, name: str) -> Points: ...

    async def summaries(self, names: Sequence[str]) -> Mapping[str, Summary | RetrievalError]:
        """Return what is said of each collection, or the error that its use raises."""
        ...

    async def ping(self) -> None:
        """Raise `DependencyUnavailable` if the engine does not answer."""
        ...

    @property
    def versions(self) -> Mapping[str, str | None]:
        """The versions of the servers by address, None where none was asked yet; none for an embedded engine."""
        ...

    @property
    def writes_late(self) -> bool:
        """Whether a write that had no answer may be carried out after later ones."""
        ...

    @property
    def alive(self) -> bool:
        """False when calls no longer end, which only a restart helps."""
        ...

    async def close(self) -> None: ...
