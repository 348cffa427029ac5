"""The soak's figures, and that its hostile pictures are what they say."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from benchmarks.hostile_inputs import bodies, large_png, large_tile, many_scans
from benchmarks.machine import Machine
from benchmarks.soak import Answers, Process, Soak, processes
from model.errors import InvalidInput, TooLarge
from model.images.decoding import decode_image
from model.types import Limits


def test_processes_of_a_parent_are_told_apart() -> None:
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        family = processes(os.getpid())
        child.kill()
    assert family[child.pid].name.startswith(sys.executable)
    assert family[child.pid].descriptors > 2


def test_a_report_has_what_failed_and_what_grew() -> None:
    machine = Machine("a processor", 2, 1, 8.0, "2", "3", "abc", "2026-11-30 12:00 UTC", 1.0)
    soak = Soak(machine, 30.0, quiet=Answers({"text search": [0.01, 0.02]}), mixed=Answers({"text search": [0.5]}))
    soak.mixed.failures = Counter({"text search: 503": 2})
    soak.start = {1: Process("service", 100.0, 20)}
    soak.end = {1: Process("service", 120.4, 21), 2: Process("model.images.child_process", 60.0, 4)}
    soak.peak_mib = Counter({"service": 150})
    soak.statuses = {"noise": {"400": 3}}
    report = soak.report()
    assert "Good requests failed: 2 ({'text search: 503': 2})." in report
    assert "| text search, quiet | 2 | 10 | 20 | 20 | 20 |" in report
    assert "| service | 100 | 120 | 150 | 20 | 21 |" in report
    assert "| model.images.child_process | none | 60 | 0 | none | 4 |" in report
    assert "| noise | 400: 3 |" in report


@pytest.mark.parametrize(
    ("picture", "says"), [(lambda: many_scans(64, 200), "JPEG scans"), (large_tile, "in a tile"), (large_png, "px")]
)
def test_hostile_pictures_are_refused_by_their_headers(picture: object, says: str) -> None:
    with pytest.raises((TooLarge, InvalidInput), match=says):
        decode_image(picture(), Limits())  # type: ignore[operator]


def test_bodies_name_the_collection() -> None:
    assert any(path == "/collections/c/documents" for path, _ in bodies("c"))
