"""An installation as a folder, and a folder as an installation: ledger, points and images, and a manifest that is
written last.

DIR/ledger.sqlite                what was accepted, as it was at one moment; first, so that what comes later repeats at
most DIR/points/NAME.tar.gz           a collection's points as Qdrant Edge has them on disk; or
DIR/points/NAME.points.gz        as records that every store can take: of a Qdrant server, or when the backup is to be
portable DIR/blobs.txt  DIR/blobs/…       every image's digest and size; the images themselves where they lay in a
folder of the machine DIR/manifest.json                versions, counts, checksums: without it there is no backup
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from indexer.backup import manifest as manifests
from indexer.backup import points_file
from indexer.backup.manifest import IMAGES, Manifest, SavedPoints
from indexer.backup.patience import PATIENCE_S, Patience, PatientPoints
from indexer.blobs.image_store import Blobs
from indexer.domain.collections import Collection, ReindexState
from indexer.filters import FieldType
from indexer.ledger.ledger import Ledger
from indexer.store.base import KeptOnServer, ServerOptions, Store
from model.errors import Conflict, DependencyUnavailable, InvalidInput, NotFound, RetrievalError

Report = Callable[[str], None]

_LEDGER, _IMAGES = "ledger.sqlite", "blobs.txt"
# They are as the nodes are to which a backup is restored.
_OF_A_CLUSTER = frozenset({"shards", "replication_factor", "write_consistency_factor"})


@runtime_checkable
class Snapshots(Protocol):
    """A store whose collections can be copied as they lie on disk."""

    async def snapshot(self, name: str, file: Path) -> None: ...

    async def restore(self, name: str, file: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Installation:
    ledger: Ledger
    store: Store
    blobs: Blobs


async def back_up(
    installation: Installation,
    folder: Path,
    *,
    version: str,
    portable: bool = False,
    report: Report = lambda _: None,
    patience_s: float = PATIENCE_S,
) -> Manifest:
    """Back up an installation into an empty folder. Raises `Conflict` if the folder is not empty.

    Writes may go on meanwhile where several processes share the installation. The backup contains all that was accepted
    before it began.
    """
    manifests.make_empty(folder)
    schema = await installation.ledger.dump.save(folder / _LEDGER)
    points = []
    for generation in await asyncio.to_thread(_generations, folder / _LEDGER):
        points.append(await _save(installation.store, generation, folder, portable, Patience(report, patience_s)))
        report(f"{points[-1].name}: {points[-1].documents} documents")
    images = await _save_images(installation.blobs, folder)
    report(f"{images} images{'' if installation.blobs.is_local else ', which stay where they are'}")
    files = await asyncio.to_thread(manifests.checksums, folder)
    manifest = Manifest(version, schema, time.time(), tuple(points), images, installation.blobs.is_local, files)
    await asyncio.to_thread(manifests.write, folder, manifest)
    return manifest


async def restore(folder: Path, into: Installation, *, report: Report = lambda _: None) -> Manifest:
    """Restore a backup. First the whole backup is checked, then that the destination is empty. The ledger is written
    last and in one step, so an interrupted restore leaves an empty installation and can be repeated.

    Raises `NotFound`, `InvalidInput` or `Conflict`.
    """
    manifest = await asyncio.to_thread(manifests.read, folder)
    await asyncio.to_thread(
        manifests.check, folder, manifest, [_LEDGER, _IMAGES, *(saved.file for saved in manifest.points)]
    )
    if not await into.ledger.dump.is_empty():
        raise Conflict("there are collections or jobs already: restore into an empty installation")
    await _restore_images(folder, manifest, into.blobs)
    made: list[str] = []
    try:
        for saved in manifest.points:
            await _check_absent(into.store, saved)
            made.append(saved.name)
            await _restore_points(folder, saved, into.store, Patience(report))
            report(f"{saved.name}: {saved.documents} documents")
        await _load_ledger(folder / _LEDGER, into.ledger)
    except BaseException:
        for name in made:
            with contextlib.suppress(RetrievalError):  # the first error is the one to report
                await into.store.drop(name)
        raise
    return manifest


async def _load_ledger(file: Path, ledger: Ledger) -> None:
    """Load a copy of the saved ledger. Opening the copy migrates it, and the backup stays unchanged."""
    with tempfile.TemporaryDirectory() as folder:
        await ledger.dump.load(Path(await asyncio.to_thread(shutil.copy, file, folder)))


# --- points


def _generations(saved: Path) -> list[Collection]:
    """Return the serving generation of each collection, and the other ones, as the saved ledger has them."""
    ledger = Ledger.open(f"sqlite:///{saved}")
    try:
        collections, reindexes = ledger.collections.all.blocking(), ledger.reindexes.all.blocking()
    finally:
        ledger.close()
    by_name = {collection.name: collection for collection in collections}
    begun = [
        reindex for reindex in reindexes if reindex.cursor is not None or reindex.scanned
    ]  # else it need not be in the store yet
    running = [
        reindex for reindex in begun if reindex.state is not ReindexState.DROPPING and reindex.collection in by_name
    ]
    return collections + [by_name[reindex.collection].other(reindex) for reindex in running]


async def _save(store: Store, collection: Collection, folder: Path, portable: bool, patience: Patience) -> SavedPoints:
    points = store.points(collection.points_name)
    try:
        layout = await patience.call(points.layout)
        if isinstance(store, Snapshots) and not portable:
            file = folder / "points" / f"{collection.points_name}.tar.gz"
            documents = await points.count()
            await store.snapshot(collection.points_name, file)
        else:
            file = folder / "points" / f"{collection.points_name}.points.gz"
            documents = await points_file.write(PatientPoints(points, patience), file)
    except NotFound as error:
        raise DependencyUnavailable(
            f"{error.detail}: the collection was dropped or switched while the backup was made; make it again"
        ) from error
    indexes = {name: str(kind) for name, kind in collection.indexes.items()}
    keeping = await patience.call(lambda: _kept(store, collection.points_name))
    return SavedPoints(
        collection.name,
        collection.points_name,
        str(file.relative_to(folder)),
        collection.fingerprint,
        collection.model,
        collection.dimensions,
        documents,
        indexes,
        layout.language,
        layout.latents,
        None if keeping is None else _portable_options(keeping),
    )


async def _kept(store: Store, points_name: str) -> KeptOnServer | None:
    summary = (await store.summaries([points_name]))[points_name]
    if isinstance(summary, RetrievalError):
        raise summary
    return summary.kept


def _portable_options(keeping: KeptOnServer) -> dict[str, Any]:
    names = (option.name for option in fields(ServerOptions) if option.name not in _OF_A_CLUSTER)
    return {name: getattr(keeping, name) for name in names}


async def _check_absent(store: Store, saved: SavedPoints) -> None:
    try:
        await store.points(saved.name).count()
    except NotFound:
        return
    raise Conflict(f"the store has a collection {saved.name} already: restore into an empty installation")


async def _restore_points(folder: Path, saved: SavedPoints, store: Store, patience: Patience) -> None:
    file = folder / saved.file
    if file.name.endswith(".points.gz"):
        indexes = {name: FieldType(kind) for name, kind in saved.indexes.items()}
        layout: dict[str, Any] = {"language": saved.language, "latents": saved.latents}
        if saved.server is not None and not isinstance(store, Snapshots):
            layout["options"] = ServerOptions(**saved.server)
        await patience.call(lambda: store.create(saved.name, saved.dimensions, indexes, **layout))
        await points_file.read(file, PatientPoints(store.points(saved.name), patience))
    elif isinstance(store, Snapshots):
        await store.restore(saved.name, file)
    else:
        raise InvalidInput(
            f"{saved.file} is of an embedded index, which a Qdrant server cannot take: make the backup with --portable"
        )
    documents = await patience.call(store.points(saved.name).count)
    if documents != saved.documents:
        raise InvalidInput(f"{saved.name} has {documents} documents when restored, the backup says {saved.documents}")


# --- images


async def _save_images(blobs: Blobs, folder: Path) -> int:
    count = 0
    with (folder / _IMAGES).open("w") as listed:
        async for page in blobs.pages():
            for blob in page:
                listed.write(f"{blob.digest} {blob.size_bytes}\n")
                count += 1
                if blobs.is_local:
                    data = await blobs.get(blob.digest)
                    await asyncio.to_thread(_write_image, _image(folder, blob.digest), data)
    return count


async def _restore_images(folder: Path, manifest: Manifest, blobs: Blobs) -> None:
    digests = [line.partition(" ")[0] for line in (folder / _IMAGES).read_text().splitlines()]
    if manifest.images_included:
        for digest in digests:
            await blobs.put(await asyncio.to_thread(_read_image, _image(folder, digest)))
        return
    stored = {blob.digest async for page in blobs.pages() for blob in page}
    if missing := [digest for digest in digests if digest not in stored]:
        raise Conflict(
            f"{len(missing)} of {len(digests)} images are not in the image storage, {missing[0]} for one: bring them "
            "there first"
        )


def _image(folder: Path, digest: str) -> Path:
    return folder / IMAGES / digest[:2] / digest


def _write_image(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def _read_image(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != file.name:
        raise InvalidInput(f"{file} is damaged: its name is not its checksum")
    return data
