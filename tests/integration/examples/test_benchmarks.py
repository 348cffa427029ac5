"""The benchmarks run from beginning to end at toy shapes: their figures mean nothing here, but no part of them may have broken."""

import subprocess
import sys
from pathlib import Path

import pytest
from needs import needed

needed("torch")
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("command", "rows"),
    [
        (("benchmarks.gpu", "--device", "cpu", "--shapes", "toy"), ["| gpu | ", "matmul rate", "over HTTP"]),
        (("benchmarks", "a", "--smoke"), ["| a | "]),
    ],
)
def test_they_run(command: tuple[str, ...], rows: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    for row in rows:
        assert row in done.stdout
    assert "not measured" not in done.stdout, done.stdout + done.stderr
