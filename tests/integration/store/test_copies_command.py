"""`ret2 copies` over two stand-ins that play the nodes of one cluster."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from qdrant_server import serving
from typer.testing import CliRunner

from indexer.domain.collections import Collection
from indexer.domain.points import Point
from indexer.ledger.ledger import Ledger
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from service.cli.main import app

D, KEY = 4, "key"


async def fill(url: str, hashes: list[str]) -> None:
    store = ServerStore(ServerStoreSettings(url, api_key=KEY, prefer_grpc=False))
    await store.create("c", D)
    await store.points("c").upsert(
        [Point(f"d{n}", np.ones(D, np.float32), "text", None, {}, hash_) for n, hash_ in enumerate(hashes)]
    )
    await store.close()


def test_documents_that_differ_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}", exclusive=True)
    ledger.collections.create.blocking(Collection("c", "fingerprint", "model", D, time.time()))
    ledger.close()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with serving(KEY, tmp_path / "one") as one, serving(KEY, tmp_path / "other") as other:
        asyncio.run(fill(one.url, ["a", "b", "c"]))
        asyncio.run(fill(other.url, ["a", "old"]))
        monkeypatch.setenv("RET2_QDRANT_API_KEY", KEY)
        monkeypatch.setenv("RET2_QDRANT_PREFER_GRPC", "false")
        options = ["copies", "c", "--data-dir", str(tmp_path)]
        monkeypatch.setenv("RET2_QDRANT_URL", f"{one.url},{other.url}")
        different = CliRunner().invoke(app, options)
        monkeypatch.setenv("RET2_QDRANT_URL", one.url)
        alone = CliRunner().invoke(app, options)
    lines = different.output.splitlines()
    assert sorted(lines[:2]) == [f"d1: {one.url} b, {other.url} old", f"d2: {one.url} c, {other.url} absent"]
    assert lines[2:] == [
        "2 documents differ between 2 addresses",
        "See docs/qdrant-faults.md: drop the copy that is behind, and copy its shard again.",
    ]
    assert different.exit_code == 1
    assert "RET2_QDRANT_URL has one address: name every node" in alone.output
    assert alone.output.endswith("0 documents differ between 1 addresses\n")
    assert alone.exit_code == 0


def test_without_a_server_there_are_no_copies(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["copies", "c", "--data-dir", str(tmp_path)])
    assert refused.exit_code != 0
    assert "RET2_QDRANT_URL is not set" in refused.output
