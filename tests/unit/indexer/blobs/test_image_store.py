"""Image files by content: whole or not at all, once, and what is wrong with the disk is said in our terms."""

import asyncio
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from indexer.blobs.image_store import Blobs, BlobSettings, Swept
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
    *above, file, last = synced
    assert [Path(each) for each in above] == [
        tmp_path,
        tmp_path / "blobs",
        folder.parent,
    ]  # each holds the next one's name
    assert Path(file).parent == folder
    assert last == str(folder)  # after the file has its name
    synced.clear()
    await local.put(b"data")
    assert synced == [str(folder)]  # what is known to be on disk is not synced again


async def test_a_folder_and_a_file_that_another_process_has_just_made_are_synced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may not have come to its own sync yet, and ours says that the data is on disk."""
    synced: list[str] = []
    real = os.fsync

    def sync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    digest = hashlib.sha256(b"data").hexdigest()
    folder = tmp_path / "blobs" / digest[:2] / digest[2:4]
    folder.mkdir(parents=True)
    (folder / digest).write_bytes(b"data")
    monkeypatch.setattr(os, "fsync", sync)
    with closing(Blobs(f"file://{tmp_path / 'blobs'}")) as blobs:
        await blobs.put(b"data")
    assert synced == [str(tmp_path), str(tmp_path / "blobs"), str(folder.parent), str(folder)]


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


HOUR_S = 3600.0


def age(folder: Path, digest: str, seconds: float) -> Path:
    path = folder / digest[:2] / digest[2:4] / digest
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


async def test_many_tasks_put_the_same_and_other_bytes(local: Blobs, tmp_path: Path) -> None:
    datas = [b"%d" % (number % 20) for number in range(200)]
    digests = await asyncio.gather(*map(local.put, datas))
    assert digests == [hashlib.sha256(data).hexdigest() for data in datas]
    assert len(files(tmp_path)) == 20


async def test_pages_list_every_blob_once_in_bounded_pieces(blobs: Blobs) -> None:
    put = {await blobs.put(b"%d" % number) for number in range(50)}
    for size in (1, 7, 1000):
        pages = [page async for page in blobs.pages(size)]
        assert max(map(len, pages)) <= size
        assert [blob.digest for page in pages for blob in page] == sorted(put)
    assert [page async for page in Blobs("memory://nothing-here").pages()] == []
    with pytest.raises(InvalidInput, match="page size is 0"):
        [page async for page in blobs.pages(0)]


async def test_sweep_deletes_what_is_old_and_referenced_by_nobody(local: Blobs, tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    wanted, old, young = [await local.put(data) for data in (b"wanted", b"old", b"young")]
    for digest in (wanted, old):
        age(folder, digest, 25 * HOUR_S)
    assert await local.sweep([wanted]) == Swept(kept=2, deleted=1, deleted_bytes=3)
    assert await local.get(wanted) == b"wanted"
    assert await local.get(young) == b"young"
    with pytest.raises(NotFound):
        await local.get(old)


async def test_sweep_asks_a_page_at_a_time_and_about_the_old_alone(local: Blobs, tmp_path: Path) -> None:
    old = {await local.put(b"%d" % number) for number in range(10)}
    for digest in old:
        age(tmp_path / "blobs", digest, 25 * HOUR_S)
    await local.put(b"young")
    asked: list[str] = []

    async def referenced(digests: Sequence[str]) -> set[str]:
        asked.extend(digests)
        return set(digests)

    assert (await local.sweep(referenced)).deleted == 0
    assert set(asked) == old
    assert (await local.sweep(lambda _digests: set())).deleted == 10


@pytest.mark.parametrize("jump", [-30 * HOUR_S, 30 * HOUR_S])
async def test_a_clock_that_is_set_makes_no_image_old(
    local: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    await local.put(b"before")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    age(tmp_path / "blobs", await local.put(b"after"), 0.0)
    assert (await local.sweep([])).deleted == 0


async def test_a_put_of_an_old_blob_makes_it_young_and_keeps_it_from_the_sweep(local: Blobs, tmp_path: Path) -> None:
    """Its document is about to be committed; nobody refers to it yet."""
    digest = await local.put(b"data")
    path = age(tmp_path / "blobs", digest, 25 * HOUR_S)
    inode = path.stat().st_ino
    await local.put(b"data")
    assert path.stat().st_ino == inode  # not written again
    assert (await local.sweep([])).deleted == 0


async def test_a_put_between_the_listing_and_the_deletion_wins(local: Blobs, tmp_path: Path) -> None:
    digest = await local.put(b"data")
    age(tmp_path / "blobs", digest, 25 * HOUR_S)

    async def referenced(_digests: Sequence[str]) -> set[str]:
        await local.put(b"data")  # now, after this very answer was made up
        return set()

    assert (await local.sweep(referenced)).deleted == 0
    assert await local.get(digest) == b"data"


async def test_on_an_object_store_a_put_at_the_moment_of_the_deletion_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes stay aside until a document can refer to them, and are brought back when they are asked for, or by a later sweep."""
    real, day_s = time.time, 25 * HOUR_S
    for asked_for in (True, False):
        with closing(Blobs(f"memory://{uuid.uuid4().hex}")) as blobs, monkeypatch.context() as patch:
            digest, stray = await blobs.put(b"data"), await blobs.put(b"stray")
            remove = blobs._files.rm_file

            def put_and_remove(path: str, blobs: Blobs = blobs, digest: str = digest, remove: Any = remove) -> None:
                if digest in path:
                    blobs._put(digest, b"data")
                remove(path)

            patch.setattr(time, "time", lambda: real() + day_s)
            patch.setattr(blobs, "_made_at_s", real() + day_s)
            patch.setattr(blobs._files, "rm_file", put_and_remove)
            assert (await blobs.sweep([])).deleted == 2
            patch.setattr(blobs._files, "rm_file", remove)
            assert [page async for page in blobs.pages()] == []
            if asked_for:
                assert await blobs.get(digest) == b"data"
            patch.setattr(time, "time", lambda: real() + 2 * day_s)
            patch.setattr(blobs, "_made_at_s", real() + 2 * day_s)
            await blobs.sweep([digest])
            assert await blobs.get(digest) == b"data"
            assert [len(page) async for page in blobs.pages()] == [1]
            with pytest.raises(NotFound):
                await blobs.get(stray)
            assert [path for path in blobs._files.find(blobs._root) if "aside" in path] == []


async def test_a_blob_of_half_the_grace_time_is_made_young(local: Blobs, tmp_path: Path) -> None:
    """Else it could be found there one second before the sweep takes it."""
    digest = await local.put(b"data")
    age(tmp_path / "blobs", digest, 13 * HOUR_S)
    await local.put(b"data")
    path = tmp_path / "blobs" / digest[:2] / digest[2:4] / digest
    assert time.time() - path.stat().st_mtime < 60


async def test_sweep_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    with closing(Blobs(BlobSettings(f"file://{tmp_path / 'blobs'}", grace_s=0.001))) as blobs:
        digest = await blobs.put(b"data")
        folder = tmp_path / "blobs" / digest[:2] / digest[2:4]
        (folder / f".part-{digest}.1.ab").write_bytes(b"da")
        (folder / "notes.txt").write_bytes(b"not ours")
        await asyncio.sleep(0.01)
        await blobs.sweep([digest])
        assert {path.name for path in files(tmp_path)} == {digest, "notes.txt"}


async def test_a_sweep_below_the_grace_time_is_refused(local: Blobs) -> None:
    with pytest.raises(InvalidInput, match="older_than_s is 1, it must be at least the grace time 86400"):
        await local.sweep([], older_than_s=1)


async def test_a_storage_that_is_gone_is_no_missing_image(local: Blobs, tmp_path: Path) -> None:
    """A disk that is not mounted must make jobs wait, not fail all their documents."""
    digest = await local.put(b"data")
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    with pytest.raises(DependencyUnavailable, match="the whole storage is not there"):
        await local.get(digest)


async def test_a_call_over_its_time_is_unavailable_and_holds_no_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Blobs(BlobSettings(f"file://{tmp_path / 'blobs'}", timeout_s=0.05))) as blobs:
        free = threading.Event()
        monkeypatch.setattr(blobs._files, "cat_file", lambda _path: free.wait(10) and b"")
        with pytest.raises(DependencyUnavailable, match=r"no answer within 0\.05 s"):
            await blobs.get("0" * 64)
        free.set()


@pytest.mark.parametrize("damaged", [b"", b"the whole", b"another of that size"])
async def test_a_damaged_file_is_never_handed_out_and_is_mended_by_a_put(local: Blobs, damaged: bytes) -> None:
    data = b"the whole image file"
    digest = await local.put(data)
    path = Path(local._path(digest))
    path.write_bytes(damaged)  # noqa: ASYNC240
    with pytest.raises(NotFound, match=f"image {digest} is damaged: its {len(damaged)} bytes have another checksum"):
        await local.get(digest)
    assert await local.put(data) == digest
    assert await local.get(digest) == data


async def test_a_cut_object_is_mended_by_a_put(blobs: Blobs) -> None:
    digest = await blobs.put(b"data")
    blobs._files.pipe_file(blobs._path(digest), b"da")
    assert await blobs.put(b"data") == digest
    assert await blobs.get(digest) == b"data"
