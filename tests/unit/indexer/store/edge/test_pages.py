"""Maps of a shard's files are filled before searches come."""

from __future__ import annotations

import mmap
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.store.edge import pages
from indexer.store.edge.pages import fill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
KIB = 4_096


def resident_kib(path: Path) -> int:
    maps = Path("/proc/self/smaps").read_text()
    part = maps[maps.index(str(path)) :]
    return int(re.search(r"^Rss:\s+(\d+) kB", part, re.MULTILINE)[1])  # type: ignore[index]


def files(shard: Path) -> list[Path]:
    """Return the files of a shard: of its payloads, of its vectors."""
    return sorted(shard.rglob("*.dat"), key=lambda file: file.parent.name)


def mapped(path: Path) -> mmap.mmap:
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(KIB * 1_024))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Path]:
    """A shard with a map of payloads and one of vectors, each of 4 MiB."""
    segment = tmp_path / "shard" / "segments" / "segment"
    with mapped(segment / "payload_storage" / "page_0.dat"), mapped(segment / "vector_storage" / "matrix.dat"):
        yield tmp_path / "shard"


def test_all_files_are_filled(shard: Path) -> None:
    fill(shard)
    assert [resident_kib(file) for file in files(shard)] == [KIB, KIB]


def test_vectors_come_first_and_no_more_than_half_of_the_memory(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "usable_memory_bytes", lambda: 2 * KIB * 1_024)
    fill(shard)
    payloads, vectors = files(shard)
    assert resident_kib(payloads) < KIB
    assert resident_kib(vectors) == KIB
