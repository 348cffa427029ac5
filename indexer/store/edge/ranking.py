"""Words and latents in Qdrant Edge's terms: how a shard keeps them, and a ranking by either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import qdrant_edge as qe

from indexer.store.base import Layout
from indexer.store.bm25 import Words, query_words
from indexer.store.criteria import LateInteraction, Nearest, Ranked, WordMatch
from indexer.store.edge.filters import ranked
from indexer.store.edge.graph import EXACT, NO_GRAPH, GraphSearch, nearest_queries, quantization_config
from indexer.store.edge.settings import Quantization
from indexer.store.ties import words_spare
from indexer.store.vectors import DENSE, LATENTS, PARTS, require_latents, unit_rows, words_name
from model.types import Float32

# Statistics of words over the points that are there now. Without, Edge counts what was deleted or replaced too, until
# the shard is loaded again. They read a flag of every point: 1 ms at 100,000.
_LIVE = qe.SearchParams(idf=qe.IdfParams(corpus=qe.Filter(must=[])))


# What Edge keeps of a shard's configuration, in its folder.
_CONFIG = "edge_config.json"


def has_parts(shard: Path) -> bool:
    """Return whether a shard that was loaded has the vector of several parts."""
    try:
        return PARTS in json.loads((shard / _CONFIG).read_text())["vectors"]
    except (OSError, ValueError, KeyError, TypeError):
        # What is wrong shows when it is loaded.
        return False


def vector_params(layout: Layout, quantization: Quantization = "none", *, parts: bool = False) -> dict[str, Any]:
    """Return the part of an EdgeConfig that describes the vectors of the points. With `parts`, documents may have
    several apart."""
    several = qe.MultiVectorConfig(qe.MultiVectorComparator.MaxSim)
    # Quantized vectors are read from memory, and then whole ones of the candidates alone.
    memory = None if quantization == "none" else qe.Memory.Cold
    storage: dict[str, Any] = {"quantization_config": quantization_config(quantization), "memory": memory}
    together = layout.parts and not layout.apart
    vectors = {DENSE: _dense(layout, **storage, multivector_config=several if together else None)}
    if layout.apart and parts:
        vectors[PARTS] = _dense(layout, **storage, multivector_config=several)
    if layout.latents:
        # They rerank candidates: a graph of them would not be read.
        vectors[LATENTS] = _dense(layout, multivector_config=several, hnsw_config=NO_GRAPH)
    params: dict[str, Any] = {"vectors": vectors if len(vectors) > 1 else vectors[DENSE]}
    params["sparse_vectors"] = {words_name(layout.language): qe.EdgeSparseVectorParams(modifier=qe.Modifier.Idf)}
    return params


def _dense(layout: Layout, **options: Any) -> qe.EdgeVectorParams:
    return qe.EdgeVectorParams(
        size=layout.dimensions, distance=qe.Distance.Cosine, datatype=qe.VectorStorageDatatype.Float32, **options
    )


def rank(
    shard: qe.EdgeShard,
    name: str,
    layout: Layout,
    criterion: Nearest | WordMatch | LateInteraction,
    limit: int,
    filter_: qe.Filter | None,
    score_threshold: float | None = None,
    graph: GraphSearch | None = None,
    *,
    removed: bool = True,
    parts: bool = False,
) -> Ranked:
    """Rank the points by one criterion. `removed` says whether the statistics of words may count points that are no
    longer there, `parts` whether the shard has the vector of several parts."""
    scale = 1.0
    match criterion:
        case Nearest(vector):
            request: dict[str, Any] = {
                "queries": nearest_queries(vector, layout, parts),
                "filter": filter_,
                "graph": graph,
            }
            if graph is None:
                request["params"] = EXACT
        case WordMatch(text):
            words = query_words(text, layout.language)
            if not words.ids:
                return []
            query = qe.Query.Nearest(sparse(words), using=words_name(layout.language))
            params = _LIVE if removed else None
            request = {"queries": [query], "filter": filter_, "params": params, "spare": words_spare(limit)}
        case LateInteraction(vector, latents, candidates):
            require_latents(layout, name)
            of_query = unit_rows(latents, layout.dimensions, "the query").tolist()
            request = {"queries": [qe.Query.Nearest(of_query, using=LATENTS)]}
            if parts:
                whole = None if graph is None else graph.for_all(candidates)
                near = rank(shard, name, layout, Nearest(vector), candidates, filter_, graph=whole, parts=True)
                request["filter"] = qe.Filter(must=[qe.HasIdCondition({point for point, _ in near})])
            else:
                request["prefetches"] = [_prefetch(vector, layout, candidates, filter_, graph)]
            scale = 1 / len(of_query)
    return [(point, score * scale) for point, score in ranked(shard, limit, score_threshold=score_threshold, **request)]


def rank_by_formula(
    shard: qe.EdgeShard,
    layout: Layout,
    nearest: Nearest,
    formula: qe.Formula,
    candidates: int,
    limit: int,
    filter_: qe.Filter | None,
    graph: GraphSearch | None,
) -> Ranked:
    """Rank the nearest `candidates` by a formula, in a shard without the vector of several parts. Raise what the engine
    raises where it cannot be computed."""
    near = _prefetch(nearest.vector, layout, candidates, filter_, graph)
    return ranked(shard, min(limit, candidates), queries=[formula], prefetches=[near])


def _prefetch(
    vector: Float32, layout: Layout, candidates: int, filter_: qe.Filter | None, graph: GraphSearch | None
) -> qe.Prefetch:
    params = EXACT if graph is None else graph.params(max(graph.ef, candidates), candidates)
    (query,) = nearest_queries(vector, layout, parts=False)
    return qe.Prefetch(limit=candidates, query=query, filter=filter_, params=params)


def sparse(words: Words) -> qe.SparseVector:
    return qe.SparseVector(list(words.ids), list(words.weights))
