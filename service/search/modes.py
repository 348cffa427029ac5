"""The ways to rank documents: by embedding, by words, by both, by late interaction. Each is one ranking, read in
windows.

`docs/search-modes.md` says what each score is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from indexer.domain.points import Hit
from indexer.filters import AllOf, Filter
from indexer.store.base import Points, SearchWindow
from indexer.store.boosts import additions
from indexer.store.criteria import (
    Boost,
    Boosted,
    Criterion,
    Hybrid,
    LateInteraction,
    Nearest,
    Place,
    ReciprocalRanks,
    WeightedScores,
    WordMatch,
)
from model.errors import InvalidInput
from model.types import Float32
from service.schemas.search import QueryIn, RerankIn, RrfIn, SearchIn, WeightedIn
from service.search.boosts import CANDIDATES
from service.search.clock import Clock

# Hits that `oversampling` counts for, whichever page is read, so that all pages are windows into the same ranking.
_RERANKED = 100

Fusion = RrfIn | WeightedIn


@dataclass(frozen=True, slots=True)
class RankingMode:
    """The way in which a search ranks."""

    mode: str = "fused"
    # In mode hybrid; None: by rank.
    fusion: Fusion | None = None
    # Candidates of late interaction for each of the first hundred hits; None: no late interaction.
    oversampling: float | None = None

    @classmethod
    def requested_by(cls, search: SearchIn) -> RankingMode:
        """Raise `InvalidInput` for options that do not go together."""
        mode = search.mode or "fused"
        lexical = mode == "lexical"
        query = search.query or QueryIn.model_construct()
        examples = bool(query.positive or query.negative)
        if search.fusion is not None and mode != "hybrid":
            raise _unfit("fusion", f"fusion needs mode hybrid, the mode is {mode}")
        if search.rerank and lexical:
            raise _unfit("rerank", "rerank uses the latents of embeddings, which mode lexical does not read")
        if lexical and query.image is not None:
            raise _unfit("mode", "mode lexical reads words only and would ignore the image: use hybrid or fused")
        if lexical and examples:
            raise _unfit("mode", "mode lexical reads the query's own words only, not its examples: use hybrid or fused")
        if search.highlight and mode == "fused":
            raise _unfit(
                "highlight",
                "highlight shows the words of the query, and mode fused compares embeddings alone: use "
                "lexical or hybrid",
            )
        if search.rerank and examples:
            raise _unfit("rerank", "rerank needs the latents of one query, and several examples have none")
        rerank = RerankIn() if search.rerank is True else search.rerank
        return cls(mode, search.fusion, rerank.oversampling if rerank else None)

    @property
    def embeds(self) -> bool:
        """Whether the ranking uses the query's embedding."""
        return self.mode != "lexical"

    @property
    def steady(self) -> bool:
        """Whether a document keeps its score while others come and go."""
        return self.mode == "fused"

    @property
    def reranks(self) -> bool:
        return self.oversampling is not None


@dataclass(frozen=True, slots=True)
class RankedSearch:
    """One ranking of a collection. `vector` is present if the mode embeds, `latents` if it reranks, `text` if the query
    has words.

    `options` are those that all windows have in common.
    """

    points: Points
    mode: RankingMode
    # Shape (D,).
    vector: Float32 | None = None
    # Shape (K, D).
    latents: Float32 | None = None
    text: str | None = None
    options: SearchWindow = field(default_factory=lambda: SearchWindow(0))
    clock: Clock = field(default_factory=Clock)
    boosts: tuple[Boost, ...] = ()

    async def window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> list[Hit]:
        """Return a window of the ranking of the documents that also fulfil the extra condition. Raise `Conflict` where
        the collection does not hold what the mode needs."""
        window = self._window(offset, limit, extra_condition)
        with self.clock.in_store():
            return self._with_additions(await self.points.search(self._criterion(), window))

    async def places(self, offset: int, limit: int, extra_condition: Filter | None = None) -> Sequence[Place]:
        """Return the ids and scores of a window, without reading its documents. Raise as `window` does."""
        with self.clock.in_store():
            return await self.points.rank(self._criterion(), self._window(offset, limit, extra_condition))

    async def read(self, places: Sequence[Place]) -> list[Hit]:
        """Return the documents of these places in their order, without those deleted since. Raise as `window` does."""
        options = self.options
        with self.clock.in_store():
            hits = await self.points.hits(places, with_vector=options.with_vector, consistency=options.consistency)
            return self._with_additions(hits)

    def _with_additions(self, hits: list[Hit]) -> list[Hit]:
        """Return the hits with what each boost added."""
        if not self.boosts:
            return hits
        return [replace(hit, boosts=additions(self.boosts, hit.metadata)) for hit in hits]

    def _window(self, offset: int, limit: int, extra_condition: Filter | None = None) -> SearchWindow:
        condition = _joined(self.options.condition, extra_condition)
        return replace(self.options, limit=limit, offset=offset, condition=condition, timeout_s=self.clock.remaining_s)

    def _criterion(self) -> Criterion:
        ranking = self._unboosted()
        return Boosted(ranking, self.boosts, CANDIDATES) if self.boosts else ranking

    def _unboosted(self) -> Nearest | LateInteraction | WordMatch | Hybrid:
        match self.mode.mode:
            case "fused":
                return self._by_embedding()
            case "lexical":
                return self._by_words()
            case _:
                # A query without words is ranked by its embedding alone, as if no document had its words.
                fusion = self.mode.fusion or RrfIn(method="rrf")
                # The same candidates for every page, so that all are windows into one ranking.
                words = WordMatch(self.text or "")
                return Hybrid(self._by_embedding(), words, _fusion(fusion), fusion.candidates)

    def _by_embedding(self) -> Nearest | LateInteraction:
        if self.vector is None:
            raise _unfit("query", "the query has no embedding")
        if self.mode.oversampling is None:
            return Nearest(self.vector)
        if self.latents is None:
            raise _unfit("rerank", "rerank needs a model with several latents per input; this one gives one vector")
        return LateInteraction(self.vector, self.latents, math.ceil(_RERANKED * self.mode.oversampling))

    def _by_words(self) -> WordMatch:
        if not self.text:
            raise _unfit("mode", "mode lexical needs a text, and the query has none")
        return WordMatch(self.text)


def _joined(condition: Filter | None, extra: Filter | None) -> Filter | None:
    if condition is None or extra is None:
        return condition or extra
    return AllOf((condition, extra))


def _fusion(fusion: Fusion) -> ReciprocalRanks | WeightedScores:
    match fusion:
        case RrfIn(k=k):
            return ReciprocalRanks(k)
        case WeightedIn(weight=weight):
            return WeightedScores(weight)


def _unfit(field_name: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, field=field_name)
