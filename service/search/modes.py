"""The ways a search can rank documents: by embedding, by words, by both, by late interaction. Each as a window into one ranking.

`docs/search-modes.md` says what each score is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from indexer.domain.points import Hit, Lexical, Point
from indexer.filters import Filter
from indexer.store.base import Consistency, Points
from indexer.store.criteria import Criterion, LateInteraction, Nearest, Ranked, WordMatch
from model.errors import InvalidInput
from model.types import Float32
from service.schemas.search import RerankIn, RrfIn, SearchIn, WeightedIn
from service.search.fusion import Fused, reciprocal_ranks, weighted

CANDIDATES = 1_000  # of each of the two rankings that hybrid fuses: all pages are windows into the same one
_RERANKED = (
    100  # hits that `oversampling` is of, whichever page is asked for: here too all are windows into one ranking
)

Fusion = RrfIn | WeightedIn
Rank = Callable[..., Awaitable[Ranked]]  # `Points.rank`, told all but by what and how deep


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a search says of its ranking."""

    mode: str = "fused"
    fusion: Fusion | None = None  # of mode hybrid; None: by rank
    oversampling: float | None = (
        None  # candidates for each of the first hundred hits, of late interaction; None: none of it
    )

    @classmethod
    def of(cls, search: SearchIn) -> Wanted:
        """Raises `InvalidInput` for what does not go together."""
        mode = search.mode or "fused"
        if search.fusion is not None and mode != "hybrid":
            raise _unfit("fusion", f"fusion is of mode hybrid, the mode is {mode}")
        if search.rerank and mode == "lexical":
            raise _unfit("rerank", "rerank is by the embedding's latents, which mode lexical does not look at")
        if mode == "lexical" and search.query.image is not None:
            raise _unfit("mode", "mode lexical looks at words alone and would ignore the image: take hybrid or fused")
        examples = bool(search.query.positive or search.query.negative)
        if mode == "lexical" and examples:
            raise _unfit("mode", "mode lexical looks at the query's own words, not at examples: take hybrid or fused")
        if search.rerank and examples:
            raise _unfit("rerank", "rerank is by the latents of one query, and of several examples there are none")
        rerank = RerankIn() if search.rerank is True else search.rerank
        return cls(mode, search.fusion, rerank.oversampling if rerank else None)

    @property
    def embeds(self) -> bool:
        """Whether the query's embedding has a part in it."""
        return self.mode != "lexical"

    @property
    def steady(self) -> bool:
        """Whether a document's score stays while others come and go."""
        return self.mode == "fused"

    @property
    def reranks(self) -> bool:
        return self.oversampling is not None


@dataclass(frozen=True, slots=True)
class ModeSearch:
    """`Points.search` in every mode. `vector` is there if the mode embeds, `latents` if it reranks, `text` if the query has words."""

    points: Points
    wanted: Wanted
    vector: Float32 | None = None  # (D,)
    latents: Float32 | None = None  # (K, D)
    text: str | None = None

    async def search(
        self,
        *,
        limit: int,
        offset: int = 0,
        condition: Filter | None = None,
        score_threshold: float | None = None,
        with_vector: bool = False,
        consistency: Consistency = "one",
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """A window of the ranking. Raises `Conflict` where the collection does not hold what the mode needs."""
        if self.wanted.mode == "fused" and not self.wanted.reranks and self.vector is not None:
            return await self.points.search(
                self.vector,
                limit=limit,
                offset=offset,
                condition=condition,
                score_threshold=score_threshold,
                with_vector=with_vector,
                consistency=consistency,
                timeout_s=timeout_s,
            )
        rank = partial(self.points.rank, condition=condition, consistency=consistency, timeout_s=timeout_s)
        ranking = await self._ranking(rank, offset + limit)
        page = [one for one in ranking if score_threshold is None or one.score >= score_threshold]
        return await self._hits(page[offset : offset + limit], with_vector)

    async def _ranking(self, rank: Rank, depth: int) -> list[Fused]:
        match self.wanted.mode:
            case "fused":
                ranked = await rank(self._by_embedding(), limit=depth)
                return [Fused(point, score, None, 0.0) for point, score in ranked]
            case "lexical":
                ranked = await rank(self._by_words(), limit=depth)
                return [Fused(point, score, score, 1.0) for point, score in ranked]
            case _:
                return await self._hybrid(rank)

    async def _hybrid(self, rank: Rank) -> list[Fused]:
        """A query without words is ranked by its embedding alone, as one whose words are nowhere."""
        by = [self._by_embedding()]
        if self.text:
            by.append(self._by_words())
        ranked = await asyncio.gather(*(rank(each, limit=CANDIDATES) for each in by))
        embedding, words = ranked[0], ranked[1] if len(ranked) > 1 else ()
        match self.wanted.fusion or RrfIn(method="rrf"):
            case RrfIn(k=k):
                return reciprocal_ranks(embedding, words, k)
            case WeightedIn(weight=weight):
                return weighted(embedding, words, weight)

    def _by_embedding(self) -> Criterion:
        if self.vector is None:
            raise _unfit("query", "the query has no embedding")
        if self.wanted.oversampling is None:
            return Nearest(self.vector)
        if self.latents is None:
            raise _unfit(
                "rerank", "rerank needs a model that gives several latents of an input; this one gives one vector"
            )
        return LateInteraction(self.vector, self.latents, math.ceil(_RERANKED * self.wanted.oversampling))

    def _by_words(self) -> WordMatch:
        if not self.text:
            raise _unfit("mode", "mode lexical needs a text, and the query has none")
        return WordMatch(self.text)

    async def _hits(self, page: Sequence[Fused], with_vector: bool) -> list[Hit]:
        points = await self.points.read([one.point_id for one in page]) if page else []
        # One may just have been deleted.
        return [_hit(one, point, with_vector) for one, point in zip(page, points, strict=True) if point is not None]


def _hit(ranked: Fused, point: Point, with_vector: bool) -> Hit:
    return Hit(
        document_id=point.document_id,
        score=ranked.score,
        text=point.text,
        image_digest=point.image_digest,
        metadata=point.metadata,
        vector=point.vector if with_vector else None,
        shares=point.shares,
        lexical=None if ranked.words is None else Lexical(ranked.words, ranked.share),
    )


def _unfit(field: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, field=field)
