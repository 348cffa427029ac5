"""`ret2 copies COLLECTION`: whether the nodes of a Qdrant cluster have the same documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from service.cli.backup import DataDir, open_installation, settings_of
from service.settings import Settings

if TYPE_CHECKING:
    from indexer.store.server.differences import Difference

_SHOWN = 20
_HASH_CHARS = 12


def copies(
    collection: Annotated[str, typer.Argument(help="which collection")],
    data_dir: DataDir = None,
) -> None:
    """Compare what each address of RET2_QDRANT_URL has of a collection, document by document. Exits with 1 where copies
    differ."""
    settings = settings_of(data_dir)
    if settings.qdrant_url is None:
        raise typer.BadParameter("there is no Qdrant server: RET2_QDRANT_URL is not set", param_hint="RET2_QDRANT_URL")
    addresses, unlike = asyncio.run(_compare(settings, collection))
    console = Console(soft_wrap=True, highlight=False)
    if addresses == 1:
        console.print("RET2_QDRANT_URL has one address: name every node, for a node answers from its own copies.")
    for difference in unlike[:_SHOWN]:
        console.print(f"{difference.document_id}: {_listed(difference.hashes)}")
    if len(unlike) > _SHOWN:
        console.print(f"and {len(unlike) - _SHOWN} more")
    console.print(f"{len(unlike)} documents differ between {addresses} addresses")
    if unlike:
        console.print("See docs/qdrant-faults.md: drop the copy that is behind, and copy its shard again.")
        raise typer.Exit(1)


def _listed(hashes: Mapping[str, str | None]) -> str:
    return ", ".join(
        f"{address} {'absent' if content is None else content[:_HASH_CHARS]}" for address, content in hashes.items()
    )


async def _compare(settings: Settings, name: str) -> tuple[int, list[Difference]]:
    # Qdrant's client belongs to a process that has a server.
    from indexer.store.server.store import ServerStore

    with open_installation(settings) as installation:
        try:
            assert isinstance(installation.store, ServerStore)
            collection = await installation.ledger.collections.resolve(name)
            unlike = [difference async for difference in installation.store.differences(collection.points_name)]
            return len(installation.store.settings.urls), unlike
        finally:
            await installation.store.close()
            installation.blobs.close()
            installation.ledger.close()
