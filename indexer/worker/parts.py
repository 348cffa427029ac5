"""The parts of documents: what of a document has an embedding of its own, and the point that they make together.

text ─► passages ──┐ the first image with each passage
images ────────────┴ each further image with the first passage
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from indexer.domain.collections import Collection
from indexer.domain.documents import Document
from indexer.domain.points import Part, Point, mean_of, most_parts
from indexer.store.base import Layout
from model.errors import InvalidInput
from model.passages import Cut, Passages, may_exceed
from model.types import Embedding, Input, ModelInfo

CutTexts = Callable[[Sequence[str], Cut], Awaitable[Sequence[Passages]]]


async def passages_of(
    documents: Sequence[Document], collection: Collection, layout: Layout, info: ModelInfo, cut_texts: CutTexts
) -> list[Passages]:
    """Return the passages of each text: the whole where it is short, or where the collection does not cut texts."""
    settings = collection.passages
    whole = [Passages(((0, len(document.text)),) if document.text else ()) for document in documents]
    if not (settings.enabled and layout.parts):
        return whole
    tokens = min(settings.tokens or info.max_text_tokens, info.max_text_tokens)
    most = most_parts(info.dimensions, info.latents)
    # Texts of documents with as many images leave room for as many passages.
    long: dict[int, list[int]] = defaultdict(list)
    for place, document in enumerate(documents):
        if document.text and may_exceed(document.text, tokens):
            long[max(1, most - len(document.images[1:]))].append(place)
    for room, places in long.items():
        cut = Cut(tokens, settings.overlap, room)
        passages = await cut_texts([documents[place].text or "" for place in places], cut)
        for place, result in zip(places, passages, strict=True):
            if len(result.spans) > 1 or result.dropped_tokens:
                whole[place] = result
    return whole


def parts_of(document: Document, passages: Passages, layout: Layout) -> list[Part]:
    """Return the parts of a document. Raise `InvalidInput` where its collection holds one embedding a document."""
    images = len(document.images)
    if images > 1 and not layout.parts:
        raise InvalidInput(
            f"the document has {images} images, and its collection was made before documents could have several: "
            "reindex it, or fill a new collection",
            field="images",
            value=images,
            limit=1,
        )
    spans: Sequence[tuple[int | None, int | None]] = passages.spans or ((None, None),)
    parts = [Part(start, end, 0 if images else None) for start, end in spans]
    return parts + [Part(*spans[0], image=image) for image in range(1, images)]


def inputs_of(document: Document, parts: Sequence[Part], images: Sequence[bytes]) -> list[Input]:
    """Return what the model reads of each part."""
    if len(parts) == 1:
        # As it was posted, white space at its ends too.
        whole = parts[0].end is None or parts[0].end == len(document.text or "")
        text = document.text if whole else (document.text or "")[: parts[0].end]
        return [Input(text, images[0] if images else None)]
    return [
        Input(
            None if part.start is None else (document.text or "")[part.start : part.end],
            None if part.image is None else images[part.image],
        )
        for part in parts
    ]


def dropped_tokens(passages: Passages, embeddings: Sequence[Embedding]) -> int:
    """Return how many tokens of a text have no embedding. Parts of further images repeat the first passage."""
    read = embeddings[: max(1, len(passages.spans))]
    return passages.dropped_tokens + sum(embedding.dropped_tokens for embedding in read)


def point_of(
    document: Document,
    parts: Sequence[Part],
    embeddings: Sequence[Embedding],
    digests: Sequence[str],
    stamp: str,
) -> Point:
    """Return what the store keeps of a document."""
    vectors = np.stack([embedding.vector for embedding in embeddings])
    latents = [embedding.latents for embedding in embeddings if embedding.latents is not None]
    several = len(parts) > 1
    return Point(
        document_id=document.id,
        vector=mean_of(vectors),
        text=document.text,
        image_digest=digests[0] if digests else None,
        metadata=document.metadata,
        content_hash=stamp,
        shares=embeddings[0].shares,
        latents=np.concatenate(latents) if latents else None,
        more_images=tuple(digests[1:]),
        parts=tuple(
            Part(part.start, part.end, part.image, embedding.shares)
            for part, embedding in zip(parts, embeddings, strict=True)
        )
        if several
        else (),
        part_vectors=vectors if several else None,
    )
