"""Which parts a process has, by its settings."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from indexer.worker.index_deferral import BulkLoads
from service import wiring
from service.settings import Settings


@pytest.mark.parametrize("qdrant_url", [None, "http://127.0.0.1:9"])
async def test_bulk_loads_are_a_chore_where_there_is_a_qdrant_server(
    tmp_path: Path, runtime: Any, qdrant_url: str | None
) -> None:
    parts = wiring.build(Settings(data_dir=tmp_path, qdrant_url=qdrant_url), runtime)
    assert any(isinstance(chore, BulkLoads) for chore in parts.worker.chores) == (qdrant_url is not None)
    await parts.store.close()
    parts.ledger.close()


_SERVE = """
import gc, sys
from pathlib import Path
from service import server
from service.settings import Settings

async def run(app, parts):
    print(gc.get_freeze_count(), gc.isenabled())
    return True

server.build = lambda settings: None
server.create_app = lambda parts: None
server.run = run
server.serve(Settings(data_dir=Path(sys.argv[1])))
"""


def test_what_the_start_made_is_kept_from_the_collector(tmp_path: Path) -> None:
    """Before the first request. The collector goes on for what comes after."""
    done = subprocess.run([sys.executable, "-c", _SERVE, tmp_path], capture_output=True, text=True, check=True)
    frozen, enabled = done.stdout.split()[-2:]
    assert int(frozen) > 10_000
    assert enabled == "True"
