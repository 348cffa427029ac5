from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = "import os; {}; import model.cpu.packed; print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'], os.environ['LRU_CACHE_CAPACITY'])"


@pytest.mark.parametrize(
    ("before", "environment", "kept"),
    [
        ("pass", {}, "64 64"),
        ("from model.cpu.primitive_cache import keep_prepared; keep_prepared(1024)", {}, "1024 1024"),
        (
            "from model.cpu.primitive_cache import keep_prepared; keep_prepared(1024)",
            {"LRU_CACHE_CAPACITY": "7"},
            "1024 7",
        ),
    ],
)
def test_who_says_first_how_many_shapes_are_kept_is_heard(before: str, environment: dict[str, str], kept: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(before)], env=clean | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == kept
