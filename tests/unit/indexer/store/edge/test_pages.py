"""Maps of a shard's files are filled before searches come."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest

from indexer.store.edge.pages import fill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
KIB = 4_096


def resident_kib(path: Path) -> int:
    maps = Path("/proc/self/smaps").read_text()
    part = maps[maps.index(str(path)) :]
    return int(re.search(r"^Rss:\s+(\d+) kB", part, re.MULTILINE)[1])  # type: ignore[index]


def mapped(path: Path) -> mmap.mmap:
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(KIB * 1_024))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def test_vectors_are_filled_and_payloads_are_not(tmp_path: Path) -> None:
    segment = tmp_path / "shard" / "segments" / "one"
    vectors, payloads = segment / "vector_storage" / "matrix.dat", segment / "payload_storage" / "page_0.dat"
    with mapped(vectors), mapped(payloads):
        fill(tmp_path / "shard")
        assert resident_kib(vectors) == KIB
        assert resident_kib(payloads) < KIB
