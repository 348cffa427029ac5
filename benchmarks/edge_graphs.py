"""Waiting for the graphs of Qdrant Edge, which a process builds beside the one that is measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

from indexer.store.edge.graph import Graph
from indexer.store.edge.journal import NAME as JOURNAL
from indexer.store.edge.opened import GRAPH_BYTES, GRAPH_SHARE, TAIL_BYTES


async def built(collection: Path, documents: int, dimensions: int) -> None:
    """Wait until no graph is being built, and none will be: it has all vectors, or they are too few for one."""
    while True:
        await asyncio.sleep(0.2)
        if _is_built(collection, documents, dimensions):
            return


def _is_built(collection: Path, documents: int, dimensions: int) -> bool:
    if 4 * documents * dimensions < GRAPH_BYTES:
        return True
    graphs = [graph for shard in collection.glob("shard*") if (graph := Graph.read(shard))]
    outside = max(TAIL_BYTES / (4 * dimensions), GRAPH_SHARE * documents)
    return not (collection / JOURNAL).exists() and any(documents - graph.points < outside for graph in graphs)
