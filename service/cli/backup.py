"""`ret2 backup` and `ret2 restore`, over what the settings name, as `ret2 serve` would have it. No model is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.backup import backup as backups
from indexer.backup.backup import Installation
from indexer.backup.manifest import Manifest
from model.errors import Conflict, NotFound
from service.cli.flags import settings_from
from service.settings import Settings

Folder = Annotated[Path, typer.Argument(help="folder of the backup")]
DataDir = Annotated[Path | None, typer.Option(help="as of `ret2 serve`; the other settings come from the environment")]


def backup(
    folder: Folder,
    data_dir: DataDir = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="so that a Qdrant server can take it too, if this is an embedded index")
    ] = False,
) -> None:
    """Save collections, jobs and images into an empty folder. On one machine, stop the service first."""
    settings = settings_of(data_dir)
    if _is_embedded(settings) and not (settings.data_dir.expanduser() / "ledger.sqlite").exists():
        raise NotFound(f"{settings.data_dir.expanduser()} has no ledger: there is nothing to back up")
    with open_installation(settings) as installation:
        made = _run(
            installation, backups.back_up(installation, folder, version=_version(), portable=portable, report=_report)
        )
    typer.echo(f"backed up to {folder}: {_summary(made)}")


def restore(folder: Folder, data_dir: DataDir = None) -> None:
    """Bring a backup into an empty installation. Everything is checked before anything is written."""
    settings = settings_of(data_dir)
    with open_installation(settings) as installation:
        manifest = _run(installation, backups.restore(folder, installation, report=_report))
    typer.echo(f"restored from {folder}, of ret2 {manifest.version}: {_summary(manifest)}")


def settings_of(data_dir: Path | None) -> Settings:
    return settings_from({} if data_dir is None else {"data_dir": data_dir})


def _is_embedded(settings: Settings) -> bool:
    """Return whether a part of the installation is in the data folder, which belongs to one process at a time."""
    return settings.database_url is None or settings.qdrant_url is None


@contextmanager
def open_installation(settings: Settings) -> Iterator[Installation]:
    # Here, so that the other commands start without uvicorn and Qdrant.
    from service.data_lock import only_server_of
    from service.wiring import stored

    data_dir = settings.data_dir.expanduser()
    try:
        with only_server_of(data_dir) if _is_embedded(settings) else nullcontext():
            yield stored(settings)
    except Conflict as error:
        if "is in use by another" in error.detail:
            raise Conflict(f"{error.detail}: stop that first") from error
        raise


def _run(installation: Installation, work: Coroutine[Any, Any, Manifest]) -> Manifest:
    async def run() -> Manifest:
        try:
            return await work
        finally:
            await installation.store.close()
            installation.blobs.close()
            installation.ledger.close()

    return asyncio.run(run())


def _version() -> str:
    return version("ret2")


def _report(line: str) -> None:
    typer.echo(line, err=True)


def _summary(manifest: Manifest) -> str:
    documents = sum(points.documents for points in manifest.points)
    collections = len({points.collection for points in manifest.points})
    return f"{collections} collections, {documents} documents, {manifest.images} images"
