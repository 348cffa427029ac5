"""Lists of collections open no shard."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from indexer.domain.points import Point
from indexer.errors import CollectionDamaged
from indexer.filters import FieldType
from indexer.store.base import Summary
from indexer.store.edge import client
from indexer.store.edge.client import EdgeStore
from indexer.store.edge.opened import SEARCH_THREADS
from indexer.store.edge.settings import EdgeSettings
from indexer.store.edge.shards import Shards
from indexer.store.edge.summaries import bytes_on_disk
from indexer.store.indexes import declared_indexes
from model.errors import NotFound

D = 4


def points(count: int) -> list[Point]:
    vectors = np.random.default_rng(1).standard_normal((count, D)).astype(np.float32)
    return [Point(f"d{i}", vectors[i], None, None, {"n": i}, "") for i in range(count)]


def test_what_is_closed_stays_closed(tmp_path: Path) -> None:
    shards = Shards(tmp_path, settings=EdgeSettings(max_open=2))
    for number in range(5):
        shards.create(f"c{number}", D, {"n": FieldType.NUMBER} if number else {})
        shards.upsert(f"c{number}", points(number))
    assert set(shards._open) == {"c3", "c4"}
    shards.close()
    shards = Shards(tmp_path, settings=EdgeSettings(max_open=2))
    names = [f"c{number}" for number in range(5)]
    for _ in range(2):
        listed = shards.summaries([*names, "unknown"])
        assert isinstance(listed.pop("unknown"), NotFound)
        assert not shards._open
        for number, name in enumerate(names):
            summary = listed[name]
            assert isinstance(summary, Summary)
            assert (summary.layout.dimensions, summary.documents) == (D, number)
            assert summary.size_bytes is not None
            assert summary.size_bytes > 1_000
            assert summary.indexed == (declared_indexes({"n": FieldType.NUMBER}) if number else {})
    shards.upsert("c1", points(3))
    assert shards.summaries(["c1"])["c1"].documents == 3  # type: ignore[union-attr]
    shards.delete("c1", ["d0"])
    shards.close()
    shards = Shards(tmp_path)
    assert shards.summaries(["c1"])["c1"].documents == 2  # type: ignore[union-attr]
    shards.drop("c1")
    assert isinstance(shards.summaries(["c1"])["c1"], NotFound)
    shards.close()


def test_a_new_collection_is_not_opened(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    shards.create("c", D, {})
    listed = shards.summaries(["c"])["c"]
    assert isinstance(listed, Summary)
    assert listed.documents == 0
    assert not shards._open
    shards.close()


def test_a_list_leaves_open_what_is_used(tmp_path: Path) -> None:
    shards = Shards(tmp_path, settings=EdgeSettings(max_open=2))
    for name in ("searched", "old", "new"):
        shards.create(name, D, {})
    shards.upsert("old", points(1))
    shards.upsert("searched", points(1))
    shards.summaries(["searched", "old"])
    shards.upsert("new", points(1))
    assert set(shards._open) == {"searched", "new"}
    shards.close()


def test_a_write_that_failed_leaves_no_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(tmp_path)
    shards.create("c", D, {})
    shards.upsert("c", points(1))

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("indexer.store.edge.shards.sync_folder", broken)
        with pytest.raises(OSError, match="no space"):
            shards.upsert("c", points(3))
    assert shards.summaries(["c"]) == {"c": None}
    shards.close()


@pytest.mark.parametrize("half", ["", "{", '{"layout": 3}', "[]", "null"])
def test_half_a_summary_is_none(tmp_path: Path, half: str) -> None:
    shards = Shards(tmp_path)
    shards.create("c", D, {})
    shards.upsert("c", points(2))
    shards.close()
    (tmp_path / "c" / "summary.json").write_text(half)
    shards = Shards(tmp_path)
    assert shards.summaries(["c"]) == {"c": None}
    assert shards.summary("c").documents == 2
    shards.close()


async def test_a_killed_process_leaves_no_stale_summary(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    for name in ("kept", "grown"):
        await store.create(name, D)
        await store.points(name).upsert(points(2))
    await store.close()
    store = EdgeStore(tmp_path)
    await store.points("grown").upsert(points(5))
    process = store._child._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    listed = await store.summaries(["kept", "grown"])
    assert [summary.documents for summary in listed.values()] == [2, 5]  # type: ignore[union-attr]
    await store.close()
    (tmp_path / "kept" / "collection.json").write_text("{}")
    (tmp_path / "kept" / "summary.json").unlink()
    store = EdgeStore(tmp_path)
    listed = await store.summaries(["kept", "grown"])
    assert isinstance(listed["kept"], CollectionDamaged)
    assert isinstance(listed["grown"], Summary)
    await store.close()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_an_open_shard_has_few_threads(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    before = threads()
    for number in range(8):
        shards.create(f"c{number}", D, {})
        shards.upsert(f"c{number}", points(2))
    assert threads() - before <= 8 * (SEARCH_THREADS + 1)
    shards.close()
    assert threads() - before <= 8


def test_what_is_removed_while_it_is_measured_takes_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "kept").write_bytes(b"x" * 4096)
    kept = bytes_on_disk(folder)
    assert kept >= 4096
    gone = folder / ".gone-1"
    (gone / "segments").mkdir(parents=True)
    (gone / "file").write_bytes(b"x" * 4096)
    lstat = Path.lstat

    def removing(path: Path) -> os.stat_result:
        if gone.exists():
            gone.rename(tmp_path / "removed")
        return lstat(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", removing)
        assert bytes_on_disk(folder) == kept


async def test_a_list_longer_than_one_call_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SUMMARIES_PER_CALL", 2)
    store = EdgeStore(tmp_path)
    names = [f"c{number}" for number in range(5)]
    for name in names:
        await store.create(name, D)
    assert list(await store.summaries(names)) == names
    await store.close()
