"""infinity (michaelfeil/infinity), the nearest peer: installed on demand into an environment of its own, served with the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cache import cache_folder, pip
from benchmarks.servers import free_port, running

VERSION = "0.0.78"
MODEL = "clip"  # what requests call it
# Its own ranges take versions that it does not run with; these are the newest that it does.
_PACKAGES = (
    f"infinity-emb[server]=={VERSION}",
    "sentence-transformers<4",
    "transformers<5",
    "numpy<2",
    "typer==0.12.5",
    "click<8.2",
    "pillow",
    "aiohttp",
)
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


class NotInstalled(RuntimeError):
    """With pip's last word on why."""


def installed() -> Path:
    """Its folder of programs. Not by `made_once`: an environment cannot be moved."""
    folder = cache_folder() / f"infinity-{VERSION}"
    done = folder / ".installed"
    if not done.exists():
        try:
            subprocess.run(
                [sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True, text=True
            )
            # The same torch for both: `TORCH` is what `make` installed ours from.
            install_torch = [
                str(folder / "bin/python"),
                str(Path(__file__).parents[1] / "docker/install.py"),
                "torch",
                "auto",
            ]
            torch = os.environ.get("TORCH", "").split()
            subprocess.run([*install_torch, *torch], check=True, capture_output=True, text=True)
            pip("install", *_PACKAGES, python=folder / "bin/python")
        except (subprocess.CalledProcessError, OSError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise NotInstalled(said[-1] if said else "no reason given") from error
        done.touch()
    return folder / "bin"


@contextmanager
def start_infinity(folder: Path) -> Iterator[str]:
    """Its address. float32 as ours; its cache of answers is off, since the bench sends the same inputs again and again."""
    port = free_port()
    command = [str(installed() / "infinity_emb"), "v2", "--model-id", str(folder), "--served-model-name", MODEL]
    command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-vector-disk-cache"]
    command += ["--no-bettertransformer", "--no-model-warmup", "--host", "127.0.0.1", "--port", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="infinity-") as scratch,
        running(command, f"http://127.0.0.1:{port}", "/health", Path(scratch) / "log", _ENVIRONMENT) as url,
    ):
        yield url
