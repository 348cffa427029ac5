"""Which parts a process has, by its settings."""

from pathlib import Path
from typing import Any

import pytest

from indexer.bulk_loads import BulkLoads
from service import assembly
from service.settings import Settings


@pytest.mark.parametrize("qdrant_url", [None, "http://127.0.0.1:9"])
async def test_bulk_loads_are_a_chore_where_there_is_a_qdrant_server(
    tmp_path: Path, runtime: Any, qdrant_url: str | None
) -> None:
    parts = assembly.build(Settings(data_dir=tmp_path, qdrant_url=qdrant_url), runtime)
    assert any(isinstance(chore, BulkLoads) for chore in parts.worker._chores) == (qdrant_url is not None)
    await parts.store.close()
    parts.ledger.close()
