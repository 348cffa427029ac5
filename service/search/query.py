"""Encoding the query of a request: its embedding, its words, and what an explanation needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from indexer.catalog import require_same_model
from indexer.domain.collections import Collection
from indexer.domain.inputs import check_text
from indexer.domain.points import Point
from indexer.encoding.encoder import Encoder, Lane
from indexer.store.base import Points
from model.errors import InvalidInput, NotFound, RetrievalError
from model.types import Embedding, Float32, Input, Limits, Role, Shares
from service.inputs import inputs
from service.inputs.inputs import ImageFetcher
from service.schemas.search import ExampleIn, QueryIn, WeightsIn
from service.search.clock import Clock
from service.search.modes import RankingMode

SOUGHT, NOT_SOUGHT = 1, -1


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """The query as the model saw it. The vectors without text and without image are present when an explanation was
    asked for and the query has both."""

    # (D,); None in mode lexical, which needs the words alone.
    vector: Float32 | None = None
    shares: Shares | None = None
    without_text: Float32 | None = None
    without_image: Float32 | None = None
    # Shape (K, D).
    latents: Float32 | None = None
    text: str | None = None
    # The documents that the query names, which are never hits.
    document_ids: frozenset[str] = field(default_factory=frozenset)


def examples(query: QueryIn) -> Iterator[tuple[int, str | ExampleIn]]:
    """Yield every example of a query with its sign: its own text and image or its document, then those it lists."""
    if query.text or query.image is not None:
        yield SOUGHT, ExampleIn(text=query.text, image=query.image)
    if query.document_id is not None:
        yield SOUGHT, query.document_id
    yield from ((SOUGHT, example) for example in query.positive)
    yield from ((NOT_SOUGHT, example) for example in query.negative)


def average(positive: Sequence[Float32], negative: Sequence[Float32]) -> Float32:
    """Return mean(positive), or with negatives 2 * mean(positive) - mean(negative): Qdrant's average-vector strategy.
    Each vector is (D,)."""
    if len(positive) == 1 and not negative:
        return positive[0]
    mean: Float32 = np.mean(positive, axis=0)
    if not negative:
        return mean
    opposite: Float32 = np.mean(negative, axis=0)
    return mean + (mean - opposite)


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """Encodes the queries of one collection, with the model that filled it."""

    collection: Collection
    encoder: Encoder
    points: Points
    limits: Limits
    fetcher: ImageFetcher
    clock: Clock

    async def encode(self, query: QueryIn, mode: RankingMode, *, explain: bool) -> EncodedQuery:
        """Return the query encoded. With several examples it is their vector alone: an explanation needs a single
        one."""
        signed = list(examples(query))
        ids = list(dict.fromkeys(example for _, example in signed if isinstance(example, str)))
        stored = await stored_points(self.points, self.collection.name, ids, with_latents=mode.reranks)
        text = query.text if query.document_id is None else stored[0].text
        if not mode.embeds:
            check_text(text, self.limits)
            if not stored:
                return EncodedQuery(text=text)
            return EncodedQuery(stored[0].vector, stored[0].shares, text=text, document_ids=frozenset(ids))
        contents = [example for _, example in signed if isinstance(example, ExampleIn)]
        alone = len(ids) + len(contents) == 1
        if query.weights is not None:
            await self._check_weighable()
        encoded, halves = await self._embed(query, contents, halved=explain and alone)
        if not alone:
            vectors = _vectors(signed, [embedding.vector for embedding in encoded], stored)
            return EncodedQuery(average(*vectors), text=text, document_ids=frozenset(ids))
        if stored:
            point = stored[0]
            return EncodedQuery(
                point.vector, point.shares, latents=point.latents, text=text, document_ids=frozenset(ids)
            )
        without_text, without_image = (half.vector for half in halves) if halves else (None, None)
        whole = encoded[0]
        return EncodedQuery(whole.vector, whole.shares, without_text, without_image, whole.latents, text)

    async def _embed(
        self, query: QueryIn, contents: Sequence[ExampleIn], *, halved: bool
    ) -> tuple[list[Embedding], list[Embedding]]:
        """Embed texts and images in one call of the encoder, and with `halved` the first one's image alone and text
        alone."""
        if not contents:
            return [], []
        instruction = self.collection.instruction if query.instruction is None else query.instruction
        items = []
        for content in contents:
            text = " ".join(part for part in (instruction, content.text) if part)
            items.append(await inputs.read(text, content.image, self.limits, self.fetcher))
        clock = self.clock
        clock.decode_ms = clock.passed_ms
        weights = query.weights
        halves = _halves(items[0]) if halved or weights is not None else []
        # With weights the parts of the query itself stand for it.
        whole = items if weights is None else items[1:]
        embeddings = await self._encode([*whole, *halves])
        # They are one batch as a rule, so the time of the slowest is that of all.
        timings = [embedding.timing for embedding in embeddings]
        clock.decode_ms += max(timing.decode_s for timing in timings) * 1e3
        clock.queue_ms = max(timing.queue_s for timing in timings) * 1e3
        clock.encode_ms = max(timing.encode_s for timing in timings) * 1e3
        encoded, parts = embeddings[: len(whole)], embeddings[len(whole) :]
        if weights is not None:
            encoded = [_weighted(weights, *parts), *encoded]
        return encoded, parts if halved else []

    async def _check_weighable(self) -> None:
        info = await self.encoder.info()
        if not info.weighable:
            raise InvalidInput(
                f"model {info.name} fuses text and image by itself, so a query has no weights: leave them "
                "out, or use a "
                "collection of a model that embeds each by itself, such as CLIP (`weighable` in GET /info)",
                field="query.weights",
                value=info.name,
            )

    async def _encode(self, items: Sequence[Input]) -> list[Embedding]:
        embeddings = []
        for result in await self.encoder.encode(items, role=Role.QUERY, lane=Lane.SEARCH):
            if isinstance(result, RetrievalError):
                raise result
            require_same_model(self.collection, result.fingerprint)
            embeddings.append(result)
        return embeddings


def _weighted(weights: WeightsIn, image: Embedding, text: Embedding) -> Embedding:
    """Return the embedding of both as the model would make it with these weights."""
    total = weights.text * text.vector + weights.image * image.vector
    norm = float(np.linalg.norm(total))
    if not norm > 0:
        raise InvalidInput("text and image cancel each other out with these weights", field="query.weights")
    return replace(image, vector=(total / norm).astype(np.float32))


def _halves(item: Input) -> list[Input]:
    """Return the image alone and the text alone of a query that has both."""
    return [Input(image=item.image), Input(item.text)] if item.text and item.image is not None else []


def _vectors(
    signed: Sequence[tuple[int, str | ExampleIn]], encoded: Sequence[Float32], stored: Sequence[Point]
) -> tuple[list[Float32], list[Float32]]:
    """Return the vectors of what is sought and of what is not sought. `encoded` are those of the contents, in order."""
    by_id = {point.document_id: point.vector for point in stored}
    following = iter(encoded)
    vectors = [(sign, by_id[example] if isinstance(example, str) else next(following)) for sign, example in signed]
    return (
        [vector for sign, vector in vectors if sign == SOUGHT],
        [vector for sign, vector in vectors if sign == NOT_SOUGHT],
    )


async def stored_points(
    points: Points, collection: str, document_ids: Sequence[str], *, with_latents: bool = False
) -> list[Point]:
    """Return the points of documents. Raise `NotFound` naming the first that does not exist."""
    fetched = await points.fetch(document_ids, with_latents=with_latents) if document_ids else []
    present = []
    for document_id, point in zip(document_ids, fetched, strict=True):
        if point is None:
            raise NotFound(
                f"there is no document {document_id!r:.100} in collection {collection!r}",
                field="document_id",
                value=document_id,
            )
        present.append(point)
    return present
