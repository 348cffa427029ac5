"""Words and latents in a Qdrant server's terms: how a collection keeps them, and what a ranking by either asks."""

from __future__ import annotations

from typing import Any

from qdrant_client import models as q

from indexer.store.base import Layout
from indexer.store.bm25 import Words, query_words
from indexer.store.criteria import LateInteraction, Nearest, WordMatch
from indexer.store.vectors import (
    DENSE,
    LATENTS,
    language_of,
    query_of,
    require_latents,
    unit,
    unit_rows,
    words_name,
)
from model.types import Float32

# Over the points that are there now. Without, a server counts what was deleted too, until its segments are rebuilt.
_LIVE = q.IdfCorpusParams(corpus=q.Filter())
_NO_GRAPH = q.HnswConfigDiff(m=0)  # latents are read of candidates alone


def vector_params(
    layout: Layout, on_disk: bool | None, quantization: q.QuantizationConfig | None = None
) -> dict[str, Any]:
    """Return the arguments of `create_collection` that describe the vectors of the points.

    Latents are read of a few hundred candidates alone, so they stay on disk unless `on_disk` says no, and whole: what
    is quantized is the embedding.
    """
    size, cosine = layout.dimensions, q.Distance.COSINE
    maxsim = q.MultiVectorConfig(comparator=q.MultiVectorComparator.MAX_SIM)
    several = maxsim if layout.parts else None
    dense = q.VectorParams(size=size, distance=cosine, on_disk=on_disk, multivector_config=several)
    params: dict[str, Any] = {"vectors_config": dense, "quantization_config": quantization}
    if layout.latents:
        latents_on_disk = on_disk is not False
        latents = q.VectorParams(
            size=size, distance=cosine, on_disk=latents_on_disk, multivector_config=maxsim, hnsw_config=_NO_GRAPH
        )
        dense.quantization_config = quantization
        params |= {"vectors_config": {DENSE: dense, LATENTS: latents}, "quantization_config": None}
    params["sparse_vectors_config"] = {words_name(layout.language): q.SparseVectorParams(modifier=q.Modifier.IDF)}
    return params


def vectors_on_disk(params: q.CollectionParams) -> bool:
    """Return whether the embeddings of a collection are kept on disk."""
    dense = _dense(params)
    return dense is not None and bool(dense.on_disk)


def quantization_of(config: q.CollectionConfig) -> q.QuantizationConfig | None:
    """Return how the embeddings of a collection are quantized."""
    dense = _dense(config.params)
    return (dense and dense.quantization_config) or config.quantization_config


def quantization_name(config: q.CollectionConfig) -> str:
    """Return the kind of quantization, or `none`."""
    quantization = quantization_of(config)
    # Each kind is an object with one field, which has its name.
    return "none" if quantization is None else next(iter(type(quantization).model_fields))


def _dense(params: q.CollectionParams) -> q.VectorParams | None:
    vectors = params.vectors
    return vectors.get(DENSE) if isinstance(vectors, dict) else vectors


def layout_of(params: q.CollectionParams) -> Layout | None:
    """Return the layout of a collection, or None if this service did not create it."""
    vectors = params.vectors
    named = vectors if isinstance(vectors, dict) else {DENSE: vectors}
    dense = named.get(DENSE)
    language = language_of(params.sparse_vectors or {})
    if dense is None or language is None or named.keys() - {DENSE, LATENTS} or dense.distance is not q.Distance.COSINE:
        return None
    return Layout(dense.size, language, LATENTS in named, parts=dense.multivector_config is not None)


def asked(
    criterion: Nearest | WordMatch | LateInteraction,
    layout: Layout,
    name: str,
    filter_: q.Filter | None,
    params: q.SearchParams | None,
) -> tuple[dict[str, Any], float] | None:
    """Return the arguments of `Client.query_records`, and what its scores are multiplied by; None where nothing can be
    found."""
    match criterion:
        case Nearest(vector):
            return {"query": _rows_of(vector, layout), "query_filter": filter_, "search_params": params}, 1.0
        case WordMatch(text):
            words = query_words(text, layout.language)
            if not words.ids:
                return None
            of_words = {"query": words, "using": words_name(layout.language)}
            return {**of_words, "query_filter": filter_, "search_params": q.SearchParams(idf=_LIVE)}, 1.0
        case LateInteraction(vector, latents, candidates):
            require_latents(layout, name)
            of_query = unit_rows(latents, layout.dimensions, "the query")
            nearest = query_of(vector, layout)
            near = q.Prefetch(query=nearest, limit=candidates, filter=filter_, params=params)
            return {"query": of_query, "using": LATENTS, "prefetch": near, "search_params": params}, 1 / len(of_query)


def _rows_of(vector: Float32, layout: Layout) -> Float32:
    row = unit(vector, layout.dimensions, "the query")
    return row[None] if layout.parts else row


def as_json(vector: Float32 | Words) -> Any:
    """Return a vector, rows or words as REST sends them."""
    if isinstance(vector, Words):
        return q.SparseVector(indices=list(vector.ids), values=list(vector.weights))
    return vector.tolist()
