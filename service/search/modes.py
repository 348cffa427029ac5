"""The ways a search can rank documents: by embedding, by words, by both, by late interaction. Each as a window into one ranking.

`docs/search-modes.md` says what each score is.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace

from indexer.domain.documents import point_id
from indexer.domain.points import Hit, Lexical
from indexer.store.base import Points, SearchWindow
from indexer.store.criteria import Criterion, LateInteraction, Nearest, WordMatch
from model.errors import InvalidInput
from model.types import Float32
from service.schemas.search import RerankIn, RrfIn, SearchIn, WeightedIn
from service.search.fusion import Fused, reciprocal_ranks, weighted

CANDIDATES = 1_000  # of each of the two rankings that hybrid fuses: all pages are windows into the same one
_RERANKED = (
    100  # hits that `oversampling` is of, whichever page is asked for: here too all are windows into one ranking
)

Fusion = RrfIn | WeightedIn


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

    async def search(self, window: SearchWindow) -> list[Hit]:
        """Return a window of the ranking. Raises `Conflict` where the collection does not hold what the mode needs."""
        if self.wanted.mode == "fused" and not self.wanted.reranks and self.vector is not None:
            return await self.points.search(self.vector, window)
        fused = {document.point_id: document for document in await self._ranking(window)}
        page = window.cut([(document.point_id, document.score) for document in fused.values()])
        hits = await self.points.hits(page, with_vector=window.with_vector)
        return [_with_words(hit, fused[point_id(hit.document_id)]) for hit in hits]

    async def _ranking(self, window: SearchWindow) -> list[Fused]:
        whole = replace(window, limit=window.end, offset=0, score_threshold=None)
        match self.wanted.mode:
            case "fused":
                ranked = await self.points.rank(self._by_embedding(), whole)
                return [Fused(point, score, None, 0.0) for point, score in ranked]
            case "lexical":
                ranked = await self.points.rank(self._by_words(), whole)
                return [Fused(point, score, score, 1.0) for point, score in ranked]
            case _:
                return await self._hybrid(replace(whole, limit=CANDIDATES))

    async def _hybrid(self, candidates: SearchWindow) -> list[Fused]:
        """A query without words is ranked by its embedding alone, as one whose words are nowhere."""
        criteria = [self._by_embedding()]
        if self.text:
            criteria.append(self._by_words())
        ranked = await asyncio.gather(*(self.points.rank(criterion, candidates) for criterion in criteria))
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


def _with_words(hit: Hit, fused: Fused) -> Hit:
    return hit if fused.words is None else replace(hit, lexical=Lexical(fused.words, fused.share))


def _unfit(field: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, field=field)
