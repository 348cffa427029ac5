"""What children write to standard error, and how they end."""

import io
import logging
import subprocess
import sys

import pytest

from model.child_output import ChildOutput, ending


def python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


def test_the_last_lines_are_kept_and_long_ones_are_cut() -> None:
    lines = [f"line {number}" for number in range(100)]
    output = ChildOutput(io.BytesIO("\n".join([*lines, "x" * 2_500]).encode() + b"\xff"), "child", logged=False)
    assert output.last_words().split("\n") == [*lines[-17:], "x" * 1000, "x" * 1000, "x" * 500 + "\ufffd"]


def test_lines_are_logged_as_they_come(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ChildOutput(io.BytesIO(b"first\n\nsecond\n"), "child", logged=True).last_words()
    assert [(vars(record)["child"], vars(record)["line"]) for record in caplog.records] == [
        ("child", "first"),
        ("child", "second"),
    ]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 15)", "signal 15 (SIGTERM)"),
        ("import os; os.kill(os.getpid(), 40)", "signal 40"),
    ],
)
def test_how_a_process_ended(code: str, how: str) -> None:
    assert ending(python(code), 20) == how


def test_a_process_that_does_not_end_is_killed() -> None:
    process = python("import time; time.sleep(60)")
    assert ending(process, 0.05) == "it did not end within 0.05 s and was killed"
    assert process.returncode == -9
