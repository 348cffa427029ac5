"""The benchmark of growing collections: what it writes is what it searches, and its parts add up."""

from pathlib import Path

import pytest

from benchmarks.index_sizes import LATE, WAYS, measure


@pytest.mark.parametrize("late", [False, True])
def test_a_small_collection(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RET2_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.index_sizes.CONNECTIONS", (1,))
    found = measure(600, tmp_path / "data", 0.2, "toy", late)
    assert [one.way for one in found] == list(LATE if late else WAYS)
    for one in found:
        *parts, whole = one.parts.values()
        assert all(abs(sum(each) - total) < 1e-6 for *each, total in zip(*parts, whole, strict=True))
        assert one.rates[0] > 0
    assert late or "recall@10 1.0000" in capfd.readouterr().out
