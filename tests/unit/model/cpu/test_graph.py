"""Weights that are mapped from files: what a compiled graph does not read of them leaves memory."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from model.cpu.graph import release_mapped


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is released")
def test_mapped_files_leave_memory_and_can_still_be_read(tmp_path: Path) -> None:
    contents = bytes(range(256)) * 4096
    folder, other = tmp_path / "graphs", tmp_path / "other"
    mappings = {}
    for name in (folder, other, tmp_path / "written"):
        name.mkdir()
        (name / "tower.bin").write_bytes(contents)
        with (name / "tower.bin").open("rb") as file:
            mappings[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        assert mappings[name][:] == contents
    written = mappings[tmp_path / "written"]
    written[5000:5004] = b"kept"
    for name in (folder, tmp_path / "written"):
        release_mapped(name)
    assert resident_kb(folder / "tower.bin") == 0
    assert resident_kb(other / "tower.bin") >= 1024
    assert written[5000:5004] == b"kept"
    assert mappings[folder][:] == contents
    assert resident_kb(folder / "tower.bin") >= 1024


def resident_kb(path: Path) -> int:
    """Return how much of a mapped file is in the memory of this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.endswith(f" {path}"))
    return next(int(line.split()[1]) for line in lines[place:] if line.startswith("Rss:"))
