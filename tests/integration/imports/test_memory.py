"""The benchmark of imports: every row is there, and the peak is the server's."""

from pathlib import Path

import pytest

from benchmarks.import_memory import measure


def test_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_BENCH_CACHE", str(tmp_path / "cache"))
    few, more = measure((50, 400), tmp_path)
    assert (few.rows, more.rows) == (50, 400)
    assert 100 < few.peak_mib <= more.peak_mib
