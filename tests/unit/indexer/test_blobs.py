"""Image files by content: whole or not at all, once, and what is wrong with the disk is said in our terms."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.blobs import Blobs
from model.errors import DependencyUnavailable, InvalidInput, NotFound


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blobs]:
    opened = Blobs(f"{request.param}://{tmp_path / 'blobs'}")
    yield opened
    opened.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Blobs]:
    opened = Blobs(f"file://{tmp_path / 'blobs'}")
    yield opened
    opened.close()


def files(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file()]


async def test_what_is_put_can_be_got(blobs: Blobs) -> None:
    for data in (b"one", b"", bytes(range(256)) * 1000):
        digest = await blobs.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert await blobs.get(digest) == data
    with pytest.raises(NotFound, match="ffffffff"):
        await blobs.get("f" * 64)


async def test_a_digest_is_never_a_path(blobs: Blobs) -> None:
    for bad in ("../../etc/passwd", "", "F" * 64, "0" * 63, "0" * 64 + "\n"):
        with pytest.raises(InvalidInput):
            await blobs.get(bad)


async def test_the_same_bytes_are_written_once(local: Blobs, tmp_path: Path) -> None:
    digest = await local.put(b"data")
    (path,) = files(tmp_path)
    assert path == tmp_path / "blobs" / digest[:2] / digest[2:4] / digest
    before = path.stat()
    await local.put(b"data")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_a_file_and_the_folders_that_name_it_are_synced(
    local: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kill can show this, only a power cut could."""
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd)))
    digest = await local.put(b"data")
    folder = tmp_path / "blobs" / digest[:2] / digest[2:4]
    assert Path(synced[0]).parent == folder
    assert {str(folder), str(folder.parent), str(folder.parent.parent)} <= set(synced[1:])


async def test_a_full_disk_leaves_no_part_of_a_file(
    local: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DependencyUnavailable, match="No space left"):
            await local.put(b"data")
    assert files(tmp_path) == []
    digest = await local.put(b"data")
    assert await local.get(digest) == b"data"
