"""Where the bench keeps what is costly to make: checkpoints of random weights, a tokeniser's vocabulary, the peer's environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    folder = Path(os.environ.get("RET2_BENCH_CACHE", "~/.cache/ret2-bench")).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `make` where it is not there yet: whole or not at all."""
    folder = cache_folder() / name
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".making-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            make(made)
            shutil.move(made, folder)
    return folder


def pip(*arguments: str, python: str | Path = sys.executable) -> None:
    """Raises `CalledProcessError` with what pip said."""
    subprocess.run(
        [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
