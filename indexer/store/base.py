"""The two seams of a store: `Store` for collections, `Points` for the points of one collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from indexer.domain.points import Hit, Page, Point
from indexer.filters import FieldType, Filter
from indexer.store.criteria import Criterion, Ranked
from model.types import Float32

Consistency = Literal["one", "majority", "quorum", "all"]  # of the copies of a shard, how many a search asks


@dataclass(frozen=True, slots=True)
class Layout:
    """What the points of a collection hold, fixed when it is made."""

    dimensions: int
    language: str | None = None  # of the words of their texts; None: made before words were kept
    latents: bool = False


class Points(Protocol):
    """The points of one collection. Every method may raise `DependencyUnavailable`; writes return when they are durable."""

    async def upsert(self, points: Sequence[Point]) -> None: ...

    async def delete(self, document_ids: Sequence[str]) -> None: ...

    async def fetch(self, document_ids: Sequence[str], *, with_latents: bool = False) -> list[Point | None]:
        """In the order asked, None where there is none. Vectors included."""
        ...

    async def search(
        self,
        vector: Float32,  # (D,)
        *,
        limit: int,
        offset: int = 0,
        condition: Filter | None = None,
        score_threshold: float | None = None,
        with_vector: bool = False,
        consistency: Consistency = "one",
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """Best first, equal scores by point id. Where there is one copy alone, `consistency` changes nothing.

        Nobody will wait for longer than `timeout_s`: the engine may give up then. Who cancels the call ends what it can of the work.
        """
        ...

    async def rank(
        self,
        by: Criterion,
        *,
        limit: int,
        condition: Filter | None = None,
        consistency: Consistency = "one",
        timeout_s: float | None = None,
    ) -> Ranked:
        """Point ids and scores alone. Raises `Conflict` for what the collection does not hold: see `layout`."""
        ...

    async def read(self, point_ids: Sequence[str], *, with_latents: bool = False) -> list[Point | None]:
        """`fetch` by the ids that `rank` gives."""
        ...

    async def layout(self) -> Layout: ...

    async def count(self) -> int: ...

    async def page(self, after: str | None, limit: int, condition: Filter | None = None) -> Page:
        """Document ids in the order of their points, which no write changes, from behind the page that said `after`."""
        ...

    async def images(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Digests of the images of at most `limit` points, in the order of the points, which no write changes; and what to ask for
        next as `after`, None after the last."""
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
    ) -> None:
        """Makes what is missing, `indexes` over metadata fields too; `Conflict` if its layout is another. None takes whatever is there;
        a new collection then holds neither words nor latents."""
        ...

    async def drop(self, name: str) -> None: ...

    def points(self, name: str) -> Points: ...

    async def size_bytes(self, name: str) -> int | None:
        """On disk; None where the engine does not say."""
        ...

    async def ping(self) -> None:
        """Raises `DependencyUnavailable` when the engine does not answer."""
        ...

    async def close(self) -> None: ...
