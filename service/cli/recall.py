"""`ret2 recall COLLECTION`: how much of the true nearest searches of a Qdrant server's graph find, by `ef`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from indexer.store.base import Summary
from indexer.store.recall import BREADTHS, Recall, measure_recall
from service.cli.backup import DataDir, open_installation, settings_of
from service.settings import Settings


def recall(
    collection: Annotated[str, typer.Argument(help="which collection")],
    data_dir: DataDir = None,
    queries: Annotated[int, typer.Option(min=1, max=1_000, help="queries of each kind")] = 50,
    hits: Annotated[int, typer.Option(min=1, max=100, help="how many hits of each query are compared")] = 10,
    target: Annotated[float, typer.Option(min=0, max=1, help="the recall that is wanted")] = 0.99,
) -> None:
    """Measure the recall of a collection's graph against exact search, and name the least `ef` that reaches a
    target."""
    settings = settings_of(data_dir)
    measured, default = asyncio.run(_measure(settings, collection, queries, hits))
    console = Console()
    console.print(_table(measured))
    for kind in measured:
        ef = kind.least_ef(target)
        if ef is None:
            advice = f'no ef up to {BREADTHS[-1]} reaches {target:g}: ask such queries with "exact": true'
        else:
            advice = f"ef {ef} reaches {target:g}"
        console.print(f"{kind.kind}: {advice}", highlight=False)
    if default is None:
        console.print("The embedded index compares every vector, so that its recall is always 1.", highlight=False)
    else:
        console.print(
            f"Searches that name no ef have {default}: PATCH the collection's server.hnsw_ef, or set "
            "RET2_QDRANT_HNSW_EF for all that have none of their own.",
            highlight=False,
        )


async def _measure(settings: Settings, name: str, queries: int, hits: int) -> tuple[list[Recall], int | None]:
    """Return the recall, and the breadth of searches that name none, None in an embedded index."""
    with open_installation(settings) as installation:
        try:
            collection = await installation.ledger.collections.resolve(name)
            points = installation.store.points(collection.points_name)
            measured = await measure_recall(points, queries=queries, hits=hits)
            summary = (await installation.store.summaries([collection.points_name]))[collection.points_name]
            default = summary.kept.hnsw_ef if isinstance(summary, Summary) and summary.kept is not None else None
            return measured, default
        finally:
            await installation.store.close()
            installation.blobs.close()
            installation.ledger.close()


def _table(measured: list[Recall]) -> Table:
    table = Table("queries", *(f"ef {ef}" for ef in BREADTHS))
    for kind in measured:
        table.add_row(kind.kind, *(f"{kind.by_ef[ef]:.3f}" for ef in BREADTHS))
    return table
